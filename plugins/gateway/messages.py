"""The messages of the Open Inference Protocol over gRPC, made from the table below.

A line for each field: its kind, its name, its number. ``*`` before the kind: any number of them;
``@``: a map from text to it; ``|``: one of its message's only choice.
"""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "inference"
_TABLE = """
ServerLiveRequest
ServerLiveResponse: bool live 1
ServerReadyRequest
ServerReadyResponse: bool ready 1
ModelReadyRequest: string name 1, string version 2
ModelReadyResponse: bool ready 1
ServerMetadataRequest
ServerMetadataResponse: string name 1, string version 2, *string extensions 3
ModelMetadataRequest: string name 1, string version 2
ModelMetadataResponse: string name 1, *string versions 2, string platform 3,
    *TensorMetadata inputs 4, *TensorMetadata outputs 5
TensorMetadata: string name 1, string datatype 2, *int64 shape 3
InferParameter: |bool bool_param 1, |int64 int64_param 2, |string string_param 3,
    |double double_param 4, |uint64 uint64_param 5
InferTensorContents: *bool bool_contents 1, *int32 int_contents 2, *int64 int64_contents 3,
    *uint32 uint_contents 4, *uint64 uint64_contents 5, *float fp32_contents 6,
    *double fp64_contents 7, *bytes bytes_contents 8
InferInputTensor: string name 1, string datatype 2, *int64 shape 3, @InferParameter parameters 4,
    InferTensorContents contents 5
InferRequestedOutputTensor: string name 1, @InferParameter parameters 2
ModelInferRequest: string model_name 1, string model_version 2, string id 3,
    @InferParameter parameters 4, *InferInputTensor inputs 5,
    *InferRequestedOutputTensor outputs 6, *bytes raw_input_contents 7
InferOutputTensor: string name 1, string datatype 2, *int64 shape 3, @InferParameter parameters 4,
    InferTensorContents contents 5
ModelInferResponse: string model_name 1, string model_version 2, string id 3,
    @InferParameter parameters 4, *InferOutputTensor outputs 5, *bytes raw_output_contents 6
ModelStreamInferResponse: string error_message 1, ModelInferResponse infer_response 2
ModelConfigRequest: string name 1, string version 2
ModelInput: string name 1, int32 data_type 2, *int64 dims 4
ModelOutput: string name 1, int32 data_type 2, *int64 dims 3
ModelConfig: string name 1, string platform 2, int32 max_batch_size 4, *ModelInput input 5,
    *ModelOutput output 6, string backend 17
ModelConfigResponse: ModelConfig config 1
RepositoryIndexRequest: string repository_name 1, bool ready 2
ModelIndex: string name 1, string version 2, string state 3, string reason 4
RepositoryIndexResponse: *ModelIndex models 1
ModelRepositoryParameter: |bool bool_param 1, |int64 int64_param 2, |string string_param 3,
    |bytes bytes_param 4
RepositoryModelLoadRequest: string repository_name 1, string model_name 2,
    @ModelRepositoryParameter parameters 3
RepositoryModelLoadResponse
RepositoryModelUnloadRequest: string repository_name 1, string model_name 2,
    @ModelRepositoryParameter parameters 3
RepositoryModelUnloadResponse
RegionStatus: string name 1, string key 2, uint64 offset 3, uint64 byte_size 4
SystemSharedMemoryStatusRequest: string name 1
SystemSharedMemoryStatusResponse: @RegionStatus regions 1
SystemSharedMemoryRegisterRequest: string name 1, string key 2, uint64 offset 3, uint64 byte_size 4
SystemSharedMemoryRegisterResponse
SystemSharedMemoryUnregisterRequest: string name 1
SystemSharedMemoryUnregisterResponse
"""
"""Inner messages stand beside the outer ones: the bytes are the same."""
DATA_TYPES = [
    "INVALID",
    "BOOL",
    "UINT8",
    "UINT16",
    "UINT32",
    "UINT64",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "FP16",
    "FP32",
    "FP64",
    "STRING",
]
"""Of a model's configuration, by number; each after ``TYPE_``."""
_FIELD = descriptor_pb2.FieldDescriptorProto
_PLAIN = {
    name: getattr(_FIELD, f"TYPE_{name.upper()}")
    for name in ("bool", "int32", "int64", "uint32", "uint64", "float", "double", "string", "bytes")
}


def _field(message: Any, kind: str, name: str, number: int) -> None:
    field = message.field.add(name=name, number=number, label=_FIELD.LABEL_OPTIONAL)
    if kind[0] == "@":
        entry = message.nested_type.add(name=f"{name.title().replace('_', '')}Entry")
        entry.options.map_entry = True
        _field(entry, "string", "key", 1)
        _field(entry, kind[1:], "value", 2)
        kind = f"*{message.name}.{entry.name}"
    if kind[0] == "*":
        field.label, kind = _FIELD.LABEL_REPEATED, kind[1:]
    if kind[0] == "|":
        if not message.oneof_decl:
            message.oneof_decl.add(name="parameter_choice")
        field.oneof_index, kind = 0, kind[1:]
    if kind in _PLAIN:
        field.type = _PLAIN[kind]
    else:
        field.type, field.type_name = _FIELD.TYPE_MESSAGE, f".{PACKAGE}.{kind}"


def classes() -> dict[str, Any]:
    """The class of each message, by its name."""
    file = descriptor_pb2.FileDescriptorProto(
        name="clawai/inference.proto", package=PACKAGE, syntax="proto3"
    )
    for line in _TABLE.replace(",\n", ", ").strip().splitlines():
        name, _, fields = line.partition(":")
        message = file.message_type.add(name=name)
        for each in fields.split(","):
            if words := each.split():
                _field(message, words[0], words[1], int(words[2]))
    pool = descriptor_pool.DescriptorPool()  # the process may have the same names from elsewhere
    pool.Add(file)
    found = pool.FindFileByName(file.name).message_types_by_name
    return {name: message_factory.GetMessageClass(each) for name, each in found.items()}
