"""The modules of a page as one script: a page that is opened from a disk may not load another file.

It knows the forms that these files use: `import { a, b as c } from "/file.js";` on a line, and `export` before a
declaration or `export { a, b };`.
"""

import re
from collections.abc import Mapping

IMPORT = re.compile(r'^import \{ ([\w, ]+) \} from "(/\w+\.js)";\n', re.M)
DECLARED = re.compile(r"^export ((?:async )?(?:const|function\*?|class) (\w+))", re.M)
LISTED = re.compile(r"^export \{ ([\w, ]+) \};\n?", re.M)


def bundle(entry: str, files: Mapping[str, str]) -> str:
    """A script that runs a module after all that it imports, each once.

    Args:
        entry: the path of the module that is run last, such as /page.js.
        files: path -> source.

    Raises:
        ValueError: modules import each other in a circle, or in another form.
    """
    parts: list[str] = []
    _add(entry, files, parts, ())
    return '"use strict";\nconst modules = {};\n' + "".join(parts)


def _add(path: str, files: Mapping[str, str], parts: list[str], above: tuple[str, ...]) -> None:
    """Append a module to `parts`, behind those that it imports."""
    if path in above:
        raise ValueError(f"{path} imports itself through {', '.join(above)}")
    begin = f'modules["{path}"] = '
    if any(part.startswith(begin) for part in parts):
        return
    source = files[path]
    for _, other in IMPORT.findall(source):
        _add(other, files, parts, (*above, path))
    names = [name for _, name in DECLARED.findall(source)]
    names += [name for names in LISTED.findall(source) for name in names.split(", ")]
    body = LISTED.sub("", DECLARED.sub(r"\1", IMPORT.sub(_destructured, source)))
    if re.search(r"^(import|export)\b", body, re.M):
        raise ValueError(f"{path} imports or exports in a form that is not known here")
    parts.append(f"{begin}(() => {{\n{body}\nreturn {{ {', '.join(names)} }};\n}})();\n")


def _destructured(found: re.Match[str]) -> str:
    names = found[1].replace(" as ", ": ")
    return f'const {{ {names} }} = modules["{found[2]}"];\n'
