"""`streamfit serve`: what is in a state directory, over HTTP."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

from streamfit.cli.app import Option, State, app
from streamfit.errors import ConfigurationError
from streamfit.serving import StateServer

__all__ = ["serve"]


@app.command()
def serve(
    state: State,
    address: Annotated[
        str, Option(metavar="HOST:PORT", help="Where to listen; port 0 takes a free one.")
    ] = "127.0.0.1:8765",
    token_file: Annotated[
        Path | None,
        Option(metavar="FILE", help="Holds the token that requests must bring."),
    ] = None,
    token: Annotated[str | None, Option(envvar="STREAMFIT_TOKEN", hidden=True)] = None,
) -> None:
    """Show a checkpoint directory on a page and predict from its newest checkpoint.

    A trainer may be at work there: its newer checkpoints are taken as they come. It serves /,
    /metrics, /healthz and POST /predict until Ctrl-C. The token may also be in the environment
    variable STREAMFIT_TOKEN; without one only addresses of this machine are accepted.
    """
    if token_file is not None:
        try:
            token = token_file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeError) as error:
            raise ConfigurationError(f"cannot read the token in {token_file}: {error}") from None
    with StateServer(state, address, token=token) as server, contextlib.suppress(KeyboardInterrupt):
        print(f"serving {state} at {server.url}", flush=True)
        server.run()
