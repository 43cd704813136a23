"""Self-contained HTML pages from the templates beside this module."""

import base64
from pathlib import Path

import jinja2

KINDS = {".png": "png", ".svg": "svg+xml"}


def page(template: str, pictures: dict[str, Path] | None = None, **values) -> str:
    """A page of a template; what it says is escaped. `pictures`: files that become data URIs, by name."""
    environment = jinja2.Environment(loader=jinja2.PackageLoader(__package__), autoescape=True, trim_blocks=True,
                                     lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    embedded = {name: data_uri(file.read_bytes(), file.suffix) for name, file in (pictures or {}).items()}
    return environment.get_template(template).render(pictures=embedded, **values)


def data_uri(content: bytes, suffix: str) -> str:
    """Of a picture in a format of `KINDS`."""
    return f"data:image/{KINDS[suffix]};base64,{base64.b64encode(content).decode()}"
