"""`sidegate completion` prints a completion script for a shell."""

import argparse
from collections.abc import Sequence
from shlex import quote

from sidegate.commands.command_parser import CommandParser, Commands, CommandWords
from sidegate.commands.output import write_line

# With no word that fits, the shell completes file names.
_BASH = """\
_sidegate() {{
  local current="${{COMP_WORDS[COMP_CWORD]}}" command="" words="" i
  for ((i = 1; i < COMP_CWORD; i++)); do
    case "$command ${{COMP_WORDS[i]}}" in
      {known}) command="$command ${{COMP_WORDS[i]}}" ;;
    esac
  done
  case "$command" in
{cases}
  esac
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o default -F _sidegate sidegate"""

# zsh has the function `compdef`, which bashcompinit needs, only after compinit; -i skips folders that others may write.
_ZSH = """\
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit -i }
autoload -Uz bashcompinit && bashcompinit
"""


def add_completion(commands: Commands) -> None:
    """Add the command `completion`."""
    command = commands.add_parser(
        "completion",
        help="print a completion script for bash, zsh or fish",
        description='Print a completion script. bash: eval "$(sidegate completion bash)" in ~/.bashrc; zsh: the same '
        "with zsh in ~/.zshrc; fish: sidegate completion fish > ~/.config/fish/completions/sidegate.fish",
    )
    command.add_argument("shell", choices=("bash", "zsh", "fish"), metavar="bash|zsh|fish")


def print_completion(parser: CommandParser, options: argparse.Namespace) -> int:
    """Print the script for the words of `parser`."""
    known = list(parser.words())
    for line in (_fish(known) if options.shell == "fish" else _bash(known, options.shell)).splitlines():
        write_line(line)
    return 0


def _bash(known: Sequence[CommandWords], shell: str) -> str:
    paths = "|".join(f'" {" ".join(each.path)}"' for each in known if each.path)
    cases = [
        f'    "{"".join(f" {word}" for word in each.path)}") words="{" ".join((*each.commands, *each.options))}" ;;'
        for each in known
    ]
    script = _BASH.format(known=paths, cases="\n".join(cases))
    return _ZSH + script if shell == "zsh" else script


def _fish(known: Sequence[CommandWords]) -> str:
    lines = []
    for each in known:
        if each.path:
            condition = " and ".join(f"__fish_seen_subcommand_from {word}" for word in each.path).replace(
                " and ", "; and "
            )
        else:
            condition = "__fish_use_subcommand"
        before = f"complete -c sidegate -n {quote(condition)}"
        below = (
            f"{before[:-1]}; and not __fish_seen_subcommand_from {' '.join(each.commands)}'" if each.path else before
        )
        lines += [f"{below} -f -a {name}{f' -d {quote(text)}' if text else ''}" for name, text in each.commands.items()]
        lines += [f"{before} -l {option[2:]}" for option in each.options if option.startswith("--")]
    return "\n".join(lines)
