"""The HTTP interface: Starlette routes over the service, no logic of its own."""
