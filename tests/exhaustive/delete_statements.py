"""Delete each statement of src that is an expression or an assignment, in turn: which of them does no test miss?

    python tests/exhaustive/delete_statements.py .venv/bin/python -m pytest -x -q tests/api tests/ownership

Run it in a clone of its own, since it changes the files of src while it runs. It prints what no test missed.
"""

import ast
import subprocess
import sys
from pathlib import Path

for file in sorted(Path("src/unixsock").glob("*.py")):
    source = file.read_text(encoding="utf-8")
    lines = source.splitlines(keepends=True)
    for node in ast.walk(ast.parse(source)):
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if isinstance(node, (ast.Expr, ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Delete)) and not docstring:
            before, after = lines[: node.lineno - 1], lines[node.end_lineno :]
            try:
                file.write_text("".join([*before, " " * node.col_offset, "pass\n", *after]), encoding="utf-8")
                if subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=False).returncode == 0:
                    print(f"{file}:{node.lineno}: {ast.unparse(node)}", flush=True)
            finally:
                file.write_text(source, encoding="utf-8")
