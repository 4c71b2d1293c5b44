"""The program `onet`: `onet VERB [flags]` is `python -m launch.VERB [flags]`."""

import ast
import difflib
import runpy
import sys
from pathlib import Path

import onet_jax

HELP = """usage: onet VERB [flags]

{verbs}

onet VERB --help shows the flags of a verb, onet VERB --helpfull all of them and the values of the config;
onet train --config=list the configs."""


def main() -> None:
    """Run the verb in sys.argv."""
    files = {path.stem: path for path in sorted(Path(__file__).parent.glob('[!_]*.py'))}
    verb = sys.argv[1] if len(sys.argv) > 1 else '--help'
    if verb in ('-h', '--help', 'help'):
        titles = {
            name: ast.get_docstring(ast.parse(path.read_text())).partition(':')[0] for name, path in files.items()
        }
        print(HELP.format(verbs='\n'.join(f'    {name:12} {title}' for name, title in titles.items())))
    elif verb == '--version':
        print(onet_jax.__version__)
    elif verb not in files:
        near = difflib.get_close_matches(verb, files, n=1)
        sys.exit(
            f'error: expected a verb, one of {", ".join(files)}, found {verb!r}'
            + (f'; did you mean {near[0]!r}?' if near else '')
        )
    else:
        del sys.argv[1]
        runpy.run_module(f'{__package__}.{verb}', run_name='__main__', alter_sys=True)


if __name__ == '__main__':
    main()
