"""Options that several commands share."""

from pathlib import Path
from typing import Annotated, Optional

import typer

# typer reads Optional from annotations; `| None` would do on Python 3.10 and newer, but not inside
# Annotated for lists.
Fleet = Annotated[Path, typer.Option("--fleet", help="folder that `firedoor init` made")]
AnyFleet = Annotated[
    Optional[Path], typer.Option("--fleet", help="folder that `firedoor init` made")  # noqa: UP045
]
PassphraseFile = Annotated[
    Optional[Path], typer.Option(help="file with the passphrase; else it is asked for")  # noqa: UP045
]
Key = Annotated[Path, typer.Option("--key", help="key file")]
AnyKey = Annotated[Optional[Path], typer.Option("--key", help="key file, instead of --fleet")]  # noqa: UP045
To = Annotated[Optional[list[str]], typer.Option("--to", help="HOST:PORT of a peer")]  # noqa: UP045
Wait = Annotated[float, typer.Option(help="seconds to wait for word of the order")]
Keys = Annotated[Optional[list[Path]], typer.Option("--key", help="key file; once a signer")]  # noqa: UP045
SignOnly = Annotated[Optional[Path], typer.Option(help="write a part-signed order there")]  # noqa: UP045
Combine = Annotated[Optional[list[Path]], typer.Option(help="part-signed orders")]  # noqa: UP045
Blind = Annotated[bool, typer.Option("--blind", help="sign for ids whose records nobody shows")]
