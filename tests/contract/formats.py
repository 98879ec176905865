"""Read by the fuzzer: how it makes texts of the formats that only qguard knows."""

import schemathesis

from qguard.api.schemas import CONFIGURATION_FORMAT
from tests.support import configurations

schemathesis.openapi.format(CONFIGURATION_FORMAT, configurations.texts())
