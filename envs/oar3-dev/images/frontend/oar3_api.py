"""The REST API of OAR 3 as uvicorn wants it, below the path at which Apache publishes it."""

from oar.api.app import create_app
from oar.lib.globals import init_config

config = init_config()
config["LOG_FILE"] = ":stderr:"
app = create_app(config=config, root_path="/newoarapi")
