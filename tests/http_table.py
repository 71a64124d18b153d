"""The tables of ``docs/http.md``, from the code.

PYTHONPATH=tests python tests/http_table.py
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from clawai.plugins.gateway import (
    embeddings,
    formats,
    functions,
    inference,
    kserve,
    ollama,
    openai,
    responses,
    store,
    tfserving,
    transcripts,
)
from clawai.plugins.gateway.fields import Form

PAGE = Path(__file__).parents[1] / "docs" / "http.md"
BEGIN, END = "<!-- fields -->\n", "<!-- end of fields -->\n"
FORMS = (
    ("POST /v1/chat/completions", openai.CHAT),
    ("Each of its `messages`", openai.MESSAGE),
    ("Each part of a message's `content`", openai.PART),
    ("`stream_options`", openai.STREAM_OPTIONS),
    ("`response_format`", formats.RESPONSE_FORMAT),
    ("Its `json_schema`", formats.JSON_SCHEMA),
    ("Each of its `tools`", functions.CHAT_TOOL),
    ("A tool's `function`", functions.FUNCTION),
    ("Each of a message's `tool_calls`", functions.TOOL_CALL),
    ("A call's `function`", functions.FUNCTION_CALL),
    ("POST /v1/completions", openai.COMPLETION),
    ("POST /v1/responses", responses.FORM),
    ("Each of its `input`", responses.ITEM),
    ("Of these, calls", responses.CALL),
    ("Of these, what calls returned", responses.OUTPUT),
    ("`text`", formats.TEXT),
    ("Its `format`", formats.TEXT_FORMAT),
    ("Each of its `tools`", functions.RESPONSE_TOOL),
    ("POST /v1/embeddings", embeddings.OPENAI),
    ("POST /v1/audio/transcriptions", transcripts.FORM),
    ("POST /api/chat", ollama.CHAT),
    ("Each of its `messages`", ollama.MESSAGE),
    ("POST /api/generate", ollama.GENERATE),
    ("`options` of both", ollama.OPTIONS),
    ("POST /api/show", ollama.SHOW),
    ("POST /api/pull", store.PULL),
    ("DELETE /api/delete", store.DELETE),
    ("POST /api/embed", embeddings.OLLAMA),
    ("POST /api/embeddings", embeddings.OLLAMA_ONE),
    ("POST /v1/models/NAME:predict", tfserving.PREDICT),
    ("POST /v1/models/NAME:classify and :regress", tfserving.EXAMPLES),
    ("POST /v2/models/NAME/infer", kserve.INFER),
    ("Its `parameters`", inference.PARAMETERS),
    ("Each of its `inputs`", kserve.INPUT),
    ("`parameters` of an input", inference.INPUT_PARAMETERS),
    ("Each of its `outputs`", kserve.OUTPUT),
    ("`parameters` of an output", inference.OUTPUT_PARAMETERS),
    ("POST /v2/repository/index", kserve.INDEX),
    ("POST /v2/repository/models/NAME/load and /unload", kserve.LOAD),
    ("`parameters` of both", inference.LOAD_PARAMETERS),
    ("POST /v2/systemsharedmemory/region/NAME/register", kserve.REGISTER),
    ("POST /v2/systemsharedmemory/unregister", kserve.NOTHING),
)


def tables() -> str:
    """All of them."""
    return "\n".join("\n".join(_table(title, form)) + "\n" for title, form in FORMS)


def _table(title: str, form: Form[Any]) -> Iterator[str]:
    yield f"### {title}\n"
    yield "| field | |"
    yield "| --- | --- |"
    if form.known:
        yield f"| {', '.join(f'`{name}`' for name in form.known)} | supported |"
    for name, why in form.ignored.items():
        if name not in form.known:
            yield f"| `{name}` | ignored with a warning: {why} |"
    for name, (why, harmless) in form.refused.items():
        if name not in form.known:
            also = "".join(f", `{msgspec.json.encode(each).decode()}`" for each in harmless)
            yield f"| `{name}` | refused: {why}; taken if `null`{also} |"
    yield "| any other | ignored with a warning |"


def main() -> None:
    """Write them."""
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    behind = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n{tables()}\n{END}{behind}")


if __name__ == "__main__":
    main()
