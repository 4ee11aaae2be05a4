"""Options that commands share, and where they print."""

# No `from __future__ import annotations`: typer reads the annotations itself.

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from components.earthengine.contract import FILE_NAME, Framework

console = Console(highlight=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False, soft_wrap=True)

ModelDir = Annotated[Path, typer.Argument(help=f"Folder with the trained model and its {FILE_NAME}.")]
AllowPickle = Annotated[
    bool,
    typer.Option(
        "--allow-pickle", help="Let the model run code of its own as it is loaded: a pickled module's, model.code."
    ),
]
REPOSITORY = typer.Option(help="Where the images lie, as HOST/PROJECT/NAME.", envvar="IMAGE_REPOSITORY")
Repository = Annotated[str, REPOSITORY]
Tag = Annotated[str, typer.Option(help="Tag of the images.", envvar="IMAGE_TAG")]
Digests = Annotated[
    Path | None,
    typer.Option(
        help="File with the digest of each image, as `make push` writes; these name the images, not the tag.",
        envvar="IMAGE_DIGESTS",
    ),
]
PROJECT = typer.Option(help="Google Cloud project.", envvar="GOOGLE_CLOUD_PROJECT")
Project = Annotated[str, PROJECT]
Location = Annotated[str, typer.Option(help="Region.", envvar="GOOGLE_CLOUD_LOCATION")]
ServiceAccount = Annotated[
    str | None, typer.Option(help="Account that the steps run as; Compute Engine's default if not given.")
]
ScheduleName = Annotated[str, typer.Argument(help="Schedule, by its name or id.", metavar="NAME")]
Endpoint = Annotated[str, typer.Argument(help="Endpoint, by its id, display name or resource name.")]
Parameter = Annotated[
    list[str] | None,
    typer.Option("--parameter", "-p", help="NAME=VALUE for the pipeline, any number of times.", show_default=False),
]
Contract = Annotated[
    str,
    typer.Option(
        help=f"Folder with the {FILE_NAME} to train for, gs://bucket/folder; the packaged land cover if not given."
    ),
]
ForFramework = Annotated[Framework, typer.Option(help="Of the packaged land cover; a contract says its own.")]
Staging = Annotated[
    str,
    typer.Option(help="Folder for what runs make, gs://bucket/folder; earth-engine-models in the contract's bucket."),
]
