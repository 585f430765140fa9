"""The JSON of a program: the fields that we read, with their types. Other fields are not looked at.

Names end up in module paths and in text that `torch.fx` generates and runs, so that they are checked here, all of them.
Expressions of sizes would be evaluated by torch; we never do, and take them only where they are plain arithmetic.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from pruning.formats.errors import FormatError
from pruning.formats.exported_program.archive import Archive

MAX_JSON_BYTES = 32 << 20
MAX_NODES = 20_000
MAX_RANK = 16

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=256)]
Path = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_]+(\.[A-Za-z0-9_]+){0,31}$", max_length=512)]
Target = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_.:]*$", max_length=256)]
_WORDS = (
    "Symbol|Integer|Rational|Float|Add|Mul|Pow|PowByNatural|Mod|PythonMod|ModularIndexing|Max|Min|Abs|FloorDiv|CeilDiv|"
    "CleanDiv|IntTrueDiv|FloatTrueDiv|floor|ceiling|TruncToInt|ToFloat|Identity|Eq|Ne|Equality|Unequality|GreaterThan|"
    r"LessThan|StrictGreaterThan|StrictLessThan|And|Or|Not|positive|nonnegative|integer|True|False|[suz][uf]?\d+|\d+"
)
Expression = Annotated[str, StringConstraints(pattern=rf"^((\b({_WORDS})\b)|[(),=' .+*/-])*$", max_length=4096)]
OneArgument = Annotated[dict[str, Any], Field(min_length=1, max_length=1)]
"""{"as_<kind>": value}; `arguments` checks both against the operator's schema."""


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)


class _OneOf(BaseModel):
    """Exactly one of its fields is given, and none that we do not know."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    @model_validator(mode="after")
    def _exactly_one(self) -> _OneOf:
        if len(self.model_fields_set) != 1:
            raise ValueError("exactly one kind must be given")
        return self


class SizeExpression(_Part):
    expr_str: Expression


class Size(_OneOf):
    as_int: int | None = Field(None, ge=0, lt=1 << 48)
    as_expr: SizeExpression | None = None


Sizes = Annotated[list[Size], Field(max_length=MAX_RANK)]


class TensorMeta(_Part):
    dtype: int
    sizes: Sizes
    strides: Sizes
    storage_offset: Size
    layout: int
    requires_grad: bool


class Payload(_Part):
    """One stored tensor."""

    path_name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_]+$", max_length=256)]
    is_param: bool
    use_pickle: bool
    tensor_meta: TensorMeta | None


class Payloads(_Part):
    config: dict[Path, Payload]


class TensorName(_Part):
    name: Name


class UserInput(_Part):
    arg: OneArgument


class ParameterInput(_Part):
    arg: TensorName
    parameter_name: Path


class BufferInput(_Part):
    arg: TensorName
    buffer_name: Path
    persistent: bool


class ConstantInput(_Part):
    arg: TensorName
    tensor_constant_name: Path


class InputSpec(_OneOf):
    user_input: UserInput | None = None
    parameter: ParameterInput | None = None
    buffer: BufferInput | None = None
    tensor_constant: ConstantInput | None = None


class OutputSpec(_OneOf):
    user_output: UserInput | None = None


class Signature(_Part):
    input_specs: list[InputSpec]
    output_specs: list[OutputSpec]


class NamedArgument(_Part):
    name: Name
    arg: OneArgument


class Metadata(_Part):
    stack_trace: str = ""
    nn_module_stack: str = ""


class Node(_Part):
    target: Target
    inputs: Annotated[list[NamedArgument], Field(max_length=256)]
    outputs: Annotated[list[OneArgument], Field(max_length=256)]
    metadata: Metadata = Metadata()


class Graph(_Part):
    nodes: Annotated[list[Node], Field(max_length=MAX_NODES)]
    tensor_values: dict[Name, TensorMeta]
    sym_int_values: dict[Name, Size] = {}


class GraphModule(_Part):
    graph: Graph
    signature: Signature


class ExportedProgram(_Part):
    graph_module: GraphModule


_Parsed = TypeVar("_Parsed", bound=BaseModel)


def parse(archive: Archive, member: str, model: type[_Parsed]) -> _Parsed:
    """A member's JSON as `model`. The parser bounds its depth."""
    try:
        return model.model_validate_json(bytes(archive.read(member, max_bytes=MAX_JSON_BYTES)))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"])[:200]
        wrong = "no plain name or size" if first["type"] == "string_pattern_mismatch" else first["msg"][:200]
        raise FormatError(
            member,
            f"cannot be taken at {place or 'its start'!r}: {wrong}; export a module that takes one tensor "
            "and returns one, whose parameters have plain names, with torch.export.export, without run_decompositions",
        ) from None
