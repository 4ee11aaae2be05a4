"""The contract: what Earth Engine must know of a model, written once in `model.yaml` beside it.

Everything else is derived from it: export signatures, the server's decoding, the requests that
verify a deployment, the `ee.Model.fromVertexAi` call. Nothing restates it.
"""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from components.earthengine.errors import ContractError
from components.earthengine.explain import explain, shown
from components.earthengine.untrusted import documents

FILE_NAME = "model.yaml"

Framework = Literal["pytorch", "tensorflow"]
PayloadFormat = Literal[
    "SERIALIZED_TF_TENSORS",
    "RAW_JSON",
    "ND_ARRAYS",
    "GRPC_TF_TENSORS",
    "GRPC_SERIALIZED_TF_TENSORS",
    "GRPC_TF_EXAMPLES",
]
# The guide's name of what the API's own list calls otherwise.
_EXAMPLES_IN_THE_GUIDE = "GRPC_SERIALIZED_TF_EXAMPLES"
# The constructors of ee.PixelType (earthengine-api, python/ee/pixeltype.py).
PixelType = Literal["float", "double", "int8", "uint8", "int16", "uint16", "int32"]
ModelType = Literal["float16", "float32", "float64", "uint8", "int16", "int32", "int64"]
Layout = Literal["channels_first", "channels_last"]
Metric = Literal["accuracy", "f1", "iou", "rmse"]

Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$", max_length=100)]
Colour = Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")]
Pixels = Annotated[int, Field(ge=1, le=4096)]
Size = tuple[Pixels, Pixels]
# Values of one patch as the model sees it: 128 MiB as float32. A request to a dedicated endpoint carries 10 MB, so that
# no such tile can be sent; what is smaller is told the largest tile that can (tiles.check_payload).
MAX_PATCH_VALUES = 1 << 25
# Hyperspectral instruments have some hundred bands, embeddings some thousand channels.
MAX_PARTS = 10_000
Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Band(_Part):
    """One band of the image that Earth Engine sends, in the image's order."""

    name: Name = Field(description="the band's name in the Earth Engine image")
    type: PixelType = Field("float", description="the pixel type that Earth Engine sends")
    shape: tuple[Pixels, ...] = Field((), max_length=2, description="of an array-valued band, such as [12]")
    factor: float = Field(1.0, description="the model sees raw * factor + offset", allow_inf_nan=False)
    offset: float = Field(0.0, description="the model sees raw * factor + offset", allow_inf_nan=False)

    @property
    def channels(self) -> int:
        """How many channels of the model's input this band fills."""
        return math.prod(self.shape)


class Property(_Part):
    """A property sent with each instance; the model sees it as constant channels after the bands.

    A number fills one channel, one of a shape as many as it has elements; false and true are 0 and 1,
    a string is its place in `values`.
    """

    name: Name = Field(description="the property's name in Earth Engine")
    type: Literal["number", "boolean", "string"] = Field("number", description="what Earth Engine sends")
    shape: tuple[Pixels, ...] = Field((), max_length=2, description="of an array-valued number, such as [12]")
    values: tuple[Annotated[str, Field(max_length=1000)], ...] = Field(
        (), description="of a string: those it can be; the model sees the place in this list, from 0"
    )
    factor: float = Field(1.0, description="the model sees value * factor + offset", allow_inf_nan=False)
    offset: float = Field(0.0, description="the model sees value * factor + offset", allow_inf_nan=False)

    @property
    def channels(self) -> int:
        """How many channels of the model's input this property fills."""
        return math.prod(self.shape)

    @model_validator(mode="after")
    def _type_and_values_agree(self) -> Self:
        if self.type == "string" and not self.values:
            raise ValueError("has no values; list the strings that it can be, in the order of the model's numbers")
        if self.type != "string" and self.values:
            raise ValueError(f"has values, which only a string can have, not a {self.type}; remove them")
        if len(set(self.values)) < len(self.values):
            raise ValueError("has a value twice; list each string once")
        if self.shape and self.type != "number":
            raise ValueError(f"has a shape, which only a number can have, not a {self.type}; remove it")
        return self


class Output(_Part):
    """One output of the model, a band of the image that Earth Engine gets back."""

    name: Name = Field(description="the band's name in Earth Engine")
    type: PixelType = Field("float", description="the pixel type of the answer")
    dimensions: Literal[0, 1, 2] = Field(
        description="rank of the value of one pixel: 0 a number, 1 a vector, 2 a matrix"
    )
    labels: tuple[str, ...] = Field((), description="what each number (0) or each element (1) stands for")
    colours: tuple[Colour, ...] = Field((), description="one #rrggbb a label; without labels a ramp over range")
    range: tuple[Finite, Finite] | None = Field(None, description="smallest and largest value, for the map")
    metrics: tuple[Metric, ...] = Field((), description="what a retrained model must be better by, the first above all")

    @property
    def judged_by(self) -> tuple[Metric, ...]:
        """The metrics that a retrained model is held against the one that serves by."""
        return self.metrics or (("accuracy",) if self.labels else ("rmse",))

    @property
    def number(self) -> str:
        """The type of number of the answer, by the name that numpy, PyTorch and TensorFlow share."""
        return {"float": "float32", "double": "float64"}.get(self.type, self.type)

    @field_validator("name")
    @classmethod
    def _not_wrapped_by_tensorflow_serving(cls, name: str) -> str:
        # TensorFlow Serving wraps outputs of such names as {"b64": ...} (its REST API page).
        if name.endswith("_bytes"):
            raise ValueError("must not end in _bytes, which TensorFlow Serving encodes once more; rename it")
        return name

    @model_validator(mode="after")
    def _labels_and_colours_agree(self) -> Self:
        if self.labels and self.colours and len(self.labels) != len(self.colours):
            raise ValueError(f"has {len(self.labels)} labels but {len(self.colours)} colours; give one colour a label")
        if self.labels and self.dimensions == 2:
            raise ValueError("has labels, which only dimensions 0 and 1 can carry; remove them")
        if self.range and self.range[0] >= self.range[1]:
            raise ValueError(f"has the range {list(self.range)}; its first number must be the smaller")
        return self

    @model_validator(mode="after")
    def _metrics_are_of_its_kind(self) -> Self:
        allowed = ("accuracy", "f1", "iou") if self.labels else ("rmse",)
        if wrong := [metric for metric in self.metrics if metric not in allowed]:
            kind = "classes, as it has labels" if self.labels else "numbers, as it has no labels"
            raise ValueError(f"has the metric {wrong[0]}, but is of {kind}; allowed: {', '.join(allowed)}")
        if len(set(self.metrics)) < len(self.metrics):
            raise ValueError("has a metric twice; name each once")
        return self


class Source(_Part):
    """Where the trained model lies and what it wants to be given."""

    file: str = Field(min_length=1, description="the model's file or folder beside model.yaml")
    code: str | None = Field(
        None, pattern=r"^[\w./-]+\.py:\w+$", description="for a state dict: its code, as net.py:build"
    )
    layout: Layout | None = Field(None, description="channels_first (PyTorch's default) or channels_last (Keras's)")
    type: ModelType = Field("float32", description="the type of number that the model takes")
    multiple: Pixels = Field(1, description="what height and width must be divisible by")

    @field_validator("file", "code")
    @classmethod
    def _stays_beside_the_contract(cls, name: str | None) -> str | None:
        if name and (Path(name).is_absolute() or ".." in Path(name).parts):
            raise ValueError("must lie beside model.yaml; copy it there and give its name alone")
        return name


class Tolerance(_Part):
    """How far an endpoint's answer may lie from the source model's: absolute + relative * |expected|."""

    absolute: float = Field(1e-5, ge=0, allow_inf_nan=False, description="largest absolute difference")
    relative: float = Field(1e-5, ge=0, allow_inf_nan=False, description="largest relative difference")


class ModelContract(_Part):
    """What Earth Engine must know of a model.

    Inside the project a batch of tiles is one float32 array `[N, C, height, width]` of raw values:
    the bands in order, array-valued ones flattened, then the properties likewise; masked pixels are 0.
    A contract without bands is of a table (`predictProperties`): each feature is a tile of one pixel.
    """

    contract: Literal[1] = Field(1, description="version of this file's format")
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,61}[a-z0-9]$")] = Field(
        description="name of the model and the endpoint: lower case, digits and dashes"
    )
    framework: Framework = Field(description="what the model was trained with")
    payload_format: PayloadFormat = Field(description="how Earth Engine encodes tiles")
    model: Source = Field(description="where the model lies and what it wants")
    bands: tuple[Band, ...] = Field(
        (), max_length=MAX_PARTS, description="input bands in order; none for a table of features"
    )
    true_colour: tuple[Name, Name, Name] | None = Field(
        None, description="the scalar bands to show as red, green and blue"
    )
    properties: tuple[Property, ...] = Field(
        (), max_length=MAX_PARTS, description="properties sent with each instance, in order"
    )
    tile: Size = Field((1, 1), description="width and height of a tile in pixels, without overlap")
    overlap: tuple[Annotated[int, Field(ge=0, le=2048)], Annotated[int, Field(ge=0, le=2048)]] = Field(
        (0, 0), description="pixels added on each edge, in x and in y"
    )
    output_tile: Size | None = Field(None, description="width and height of the answer, where not the patch sent")
    projection: str = Field("EPSG:4326", min_length=1, description="coordinate reference system of the input pixels")
    scale: float = Field(1.0, gt=0, allow_inf_nan=False, description="size of a pixel in metres")
    outputs: tuple[Output, ...] = Field(min_length=1, max_length=MAX_PARTS, description="outputs in the model's order")
    tolerance: Tolerance = Field(Tolerance(), description="how far an answer may lie from the source model's")

    @model_validator(mode="after")
    def _is_of_an_image_or_a_table(self) -> Self:
        of_images = {"tile", "overlap", "output_tile", "projection", "scale", "true_colour"}
        if self.bands:
            if missing := sorted({"tile", "scale"} - self.model_fields_set):
                raise ValueError(f"{' and '.join(missing)} must be given beside bands; add what is missing")
        elif not self.properties:
            raise ValueError("bands and properties are both empty; declare what Earth Engine sends")
        elif surplus := sorted(of_images & self.model_fields_set):
            raise ValueError(
                f"{', '.join(surplus)} says nothing of a table, which has no bands; remove it or add bands"
            )
        elif self.model.multiple != 1:
            raise ValueError("model.multiple says nothing of a table, which has no height and width; remove it")
        return self

    @field_validator("payload_format", mode="before")
    @classmethod
    def _by_the_name_of_the_api(cls, name: object) -> object:
        return "GRPC_TF_EXAMPLES" if name == _EXAMPLES_IN_THE_GUIDE else name

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        sent = [part.name for part in self.sent]
        for names, what in ((sent, "bands and properties"), ([o.name for o in self.outputs], "outputs")):
            twice = sorted(name for name, times in Counter(names).items() if times > 1)
            if twice:
                raise ValueError(f"{what} must have different names; {', '.join(twice)} stands twice: rename one")
        return self

    @model_validator(mode="after")
    def _fits_in_memory(self) -> Self:
        # Before anything is made of it: `factors` has an item a channel.
        width, height = (-(-size // self.model.multiple) * self.model.multiple for size in self.patch)
        if (values := self.channels * height * width) > MAX_PATCH_VALUES:
            padded = f" (to a multiple of {self.model.multiple})" if self.model.multiple > 1 else ""
            raise ValueError(
                f"the patch of {width} x {height} pixels{padded} and {self.channels} channels has {values:,} values; "
                f"at most {MAX_PATCH_VALUES:,} can be sent: declare a smaller tile, overlap, model.multiple or shape"
            )
        return self

    @model_validator(mode="after")
    def _true_colour_is_of_bands(self) -> Self:
        scalar = [band.name for band in self.bands if not band.shape]
        if self.true_colour and (unknown := [name for name in self.true_colour if name not in scalar]):
            raise ValueError(f"true_colour names {', '.join(unknown)}; allowed: the scalar bands {', '.join(scalar)}")
        return self

    @model_validator(mode="after")
    def _format_can_carry(self) -> Self:
        if self.payload_format == "ND_ARRAYS":
            if len(self.outputs) > 1:
                raise ValueError(
                    f"payload_format ND_ARRAYS has no names on the wire and carries 1 output, not {len(self.outputs)}; "
                    "use SERIALIZED_TF_TENSORS or GRPC_TF_TENSORS"
                )
            strings = any(prop.type == "string" for prop in self.properties)
            if (self.bands and self.properties) or strings or any(part.shape for part in self.sent):
                raise ValueError(
                    "payload_format ND_ARRAYS carries scalar bands only, or of a table numbers and booleans, not "
                    "properties beside bands, strings or what has a shape; use SERIALIZED_TF_TENSORS or GRPC_TF_TENSORS"
                )
        return self

    @property
    def sent(self) -> tuple[Band | Property, ...]:
        """What Earth Engine sends, in the order of the model's channels: the bands, then the properties."""
        return (*self.bands, *self.properties)

    @property
    def channels(self) -> int:
        """Channels of the model's input: of all bands, then of all properties."""
        return sum(part.channels for part in self.sent)

    @property
    def table(self) -> bool:
        """Whether Earth Engine sends features (`predictProperties`), not tiles of an image."""
        return not self.bands

    @property
    def layout(self) -> Layout:
        """The layout that the model wants; each framework's own where model.yaml does not say."""
        return self.model.layout or ("channels_first" if self.framework == "pytorch" else "channels_last")

    @property
    def patch(self) -> tuple[int, int]:
        """Width and height of what Earth Engine sends: the tile and its overlap on each edge.

        The per-edge reading fits every working notebook; the guide's text says total
        (INFERRED, so exported models take any size).
        """
        return self.tile[0] + 2 * self.overlap[0], self.tile[1] + 2 * self.overlap[1]

    @property
    def factors(self) -> list[float]:
        """The factor of each channel."""
        return self._of_each_channel("factor")

    @property
    def offsets(self) -> list[float]:
        """The offset of each channel."""
        return self._of_each_channel("offset")

    def _of_each_channel(self, key: Literal["factor", "offset"]) -> list[float]:
        return [getattr(part, key) for part in self.sent for _ in range(part.channels)]

    @classmethod
    def read(cls, directory: Path) -> Self:
        """Read the contract of the model in a directory.

        Raises:
            ContractError: there is no model.yaml, it is not YAML, or it breaks a rule; the text
                has a line for each fault: the key, the value, what is allowed, the way out.
        """
        path = directory / FILE_NAME
        try:
            text = documents.read_text(path)
        except (FileNotFoundError, NotADirectoryError):
            raise ContractError(
                f"{path} does not exist; write the model's contract there "
                "(README.md, 'The contract', has one to start from)"
            ) from None
        except (OSError, ValueError) as error:
            raise ContractError(f"{path} cannot be read ({error}); it must be a UTF-8 text file") from error
        return cls.parse(text, str(path))

    @classmethod
    def parse(cls, text: str, where: str = FILE_NAME) -> Self:
        """Read the contract from the text of a model.yaml; `where` names it in errors (see `read`)."""
        try:
            document = documents.load(text)
        except yaml.YAMLError as error:
            raise ContractError(
                f"{where} is not YAML: {' '.join(str(error).split())}; mend the line it names"
            ) from error
        except Exception as error:  # what PyYAML's constructors raise: ValueError, KeyError, RecursionError, ...
            raise ContractError(f"{where} holds a value that YAML cannot give: {error}; mend it") from error
        if not isinstance(document, dict):
            raise ContractError(f"{where} holds {shown(document)}; it must hold keys such as name, bands and outputs")
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            raise ContractError("\n".join(f"{where}: {fault}" for fault in explain(cls, error))) from None

    def dump(self) -> str:
        """The contract as the text of a model.yaml that `parse` reads back."""
        document = self.model_dump(mode="json", exclude_unset=True)
        # In ASCII: left as it is, U+0085 would be read back as a line's end.
        return yaml.safe_dump({"contract": self.contract, **document}, sort_keys=False)
