"""What the command lines share: flags in both spellings, and options that mean the same everywhere."""

import argparse


def parser(description: str, examples: str) -> argparse.ArgumentParser:
    """Return a parser that shows its description and examples as they are written."""
    raw = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(description=description, epilog=examples, formatter_class=raw, allow_abbrev=False)


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of every command that runs a model."""
    parser.add_argument("--seed", type=int, default=42, help="fixes weights, data order and all noise (default: 42)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    parser.add_argument("--viz", type=int, default=8, metavar="N", help="images to draw at the end (default: 8)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="knobs or leaves of the config")


def spelled(arguments: list[str]) -> list[str]:
    """Return the arguments with every flag spelled by underscores: `--cfg-file` means `--cfg_file`."""
    split = [argument.partition("=") for argument in arguments]
    return [_underscores(name) + equals + value for name, equals, value in split]


def _underscores(name: str) -> str:
    return "--" + name[2:].replace("-", "_") if name.startswith("--") else name
