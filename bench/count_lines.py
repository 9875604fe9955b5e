"""How many lines of code there are, by folder: without blank lines, comments and docstrings.

    python bench/count_lines.py                       # kernels/ and fastnet/ of the working tree
    python bench/count_lines.py 56f9ad8 HEAD          # of commits, side by side

A line counts where a token of code begins or ends on it, as `tokenize` sees it; a string that stands alone as a
statement is documentation and does not count.
"""

import argparse
import io
import subprocess
import tokenize
from collections import Counter
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parent.parent
_LAYOUT = (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.COMMENT, tokenize.ENDMARKER)


def code_lines(source: str) -> int:
    """Count the lines of code of a Python source."""
    found: set[int] = set()
    statement: list[tokenize.TokenInfo] = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _LAYOUT:
            statement.append(token)
        elif token.type in (tokenize.NEWLINE, tokenize.ENDMARKER):
            if not all(part.type == tokenize.STRING for part in statement):
                found |= {line for part in statement for line in range(part.start[0], part.end[0] + 1)}
            statement = []
    return len(found)


def sources(commit: str | None) -> dict[str, str]:
    """Return path and text of every Python file below kernels/ and fastnet/, of a commit or the working tree."""
    if commit is None:
        paths = [path for folder in ("kernels", "fastnet") for path in sorted((ROOT / folder).rglob("*.py"))]
        return {path.relative_to(ROOT).as_posix(): path.read_text() for path in paths}

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout

    names = git("ls-tree", "-r", "--name-only", commit, "--", "kernels", "fastnet").split()
    return {name: git("show", f"{commit}:{name}") for name in names if name.endswith(".py")}


def by_folder(commit: str | None) -> Counter[str]:
    """Count lines of code by folder."""
    counts: Counter[str] = Counter()
    for path, text in sources(commit).items():
        counts[str(PurePosixPath(path).parent)] += code_lines(text)
    return counts


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description="Count lines of code by folder.")
    parser.add_argument("commits", nargs="*", help="by default the working tree")
    commits = parser.parse_args().commits or [None]
    columns = [by_folder(commit) for commit in commits]
    print("".join(f"{(commit or 'working tree')[:12]:>14}" for commit in commits))
    for folder in sorted(set().union(*columns)):
        print("".join(f"{column[folder]:>14}" for column in columns) + f"  {folder}")
    print("".join(f"{column.total():>14}" for column in columns) + "  total")


if __name__ == "__main__":
    main()
