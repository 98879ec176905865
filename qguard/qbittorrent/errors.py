"""What can go wrong between us and qBittorrent; each message says what to do."""


class ClientError(Exception):
    """qBittorrent did not do, or may not have done, what it was asked."""


class UnreachableError(ClientError):
    """No answer: not running, wrong address, or too slow. Whether a write arrived is unknown."""


class LoginRefusedError(ClientError):
    """Wrong or missing credentials, or our address is banned. No further login is tried for a while."""


class BadAnswerError(ClientError):
    """An answer that is not what the Web API gives: truncated, of another program, or refused with an error status."""
