"""Archive: the exported model in the form that a serving container loads.

PyTorch: `model.mar`, which our server and a plain TorchServe load; the handler in it is for the latter. TensorFlow: the
SavedModel folder itself, as Vertex AI wants it (saved_model.pb directly in the artifact folder).
"""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

from components.digest import FILE_NAME as DIGEST_NAME
from components.earthengine.contract import FILE_NAME, ModelContract
from components.earthengine.errors import ModelError
from components.frameworks import ONNX_NAME, TORCHSCRIPT_NAME
from components.golden import FILE_NAME as GOLDEN_NAME
from components.golden import HASH_NAME
from components.stored_zip import add_stored
from components.torchserve import DESCRIPTION_NAME, HANDLER, description
from components.whole import whole_folder

ARCHIVE_NAME = "model.mar"  # the name that Vertex AI's prebuilt PyTorch images look for


def archive_model(exported: Path, destination: Path) -> ModelContract:
    """Archive an exported model into a new folder, with model.yaml, its golden tiles and source.sha256 beside it.

    Raises:
        ContractError: the exported model has no valid model.yaml.
        ModelError: the exported model is not there.
        DiskError: the disk is full, or may not be written.
    """
    contract = ModelContract.read(exported)
    model = TORCHSCRIPT_NAME if contract.framework == "pytorch" else "saved_model.pb"
    for name in (model, GOLDEN_NAME, HASH_NAME, DIGEST_NAME):
        if not (exported / name).is_file():
            raise ModelError(f"{exported / name} does not exist; export the model again")
    needed = sum(path.stat().st_size for path in exported.rglob("*") if path.is_file())
    with whole_folder(destination, needed) as aside:
        if contract.framework == "pytorch":
            _write_mar(contract, exported, aside / ARCHIVE_NAME)
            for name in (FILE_NAME, GOLDEN_NAME, HASH_NAME, DIGEST_NAME):
                shutil.copyfile(exported / name, aside / name)
        else:
            shutil.copytree(exported, aside, dirs_exist_ok=True)
    return contract


def _write_mar(contract: ModelContract, exported: Path, path: Path) -> None:
    """Write a `.mar` with the archiver's own manifest, every file stored.

    torch-model-archiver first copies each file and then deflates it, which weights barely gain from.
    """
    from model_archiver.model_archiver_config import ModelArchiverConfig
    from model_archiver.model_packaging_utils import ModelExportUtils

    config = ModelArchiverConfig(
        model_name="model", version="1.0", handler=HANDLER.name, serialized_file=TORCHSCRIPT_NAME, runtime="python"
    )
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("MAR-INF/MANIFEST.json", ModelExportUtils.generate_manifest_json(config))
        archive.writestr(FILE_NAME, (exported / FILE_NAME).read_text(encoding="utf-8"))
        archive.writestr(DESCRIPTION_NAME, description(contract))
        archive.writestr(HANDLER.name, HANDLER.read_text(encoding="utf-8"))
        add_stored(archive, exported / TORCHSCRIPT_NAME, TORCHSCRIPT_NAME)
        if (exported / ONNX_NAME).exists():
            add_stored(archive, exported / ONNX_NAME, ONNX_NAME)
