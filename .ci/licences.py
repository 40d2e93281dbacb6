#!/usr/bin/env python3
"""Fails if a dependency has a licence that deny.toml does not allow.

`cargo deny check` does this and more; it takes longer to build than everything else in CI together.
"""

import json
import re
import subprocess
import sys
import tomllib

METADATA = ["cargo", "metadata", "--format-version", "1", "--locked"]


def allows(expression, allowed):
    """Whether an SPDX expression can be met with the allowed licences."""
    tokens = re.findall(r"[()]|[A-Za-z0-9.+-]+", expression.replace("/", " OR "))

    def either():
        met = both()
        while tokens and tokens[0] == "OR":
            tokens.pop(0)
            met = both() or met
        return met

    def both():
        met = one()
        while tokens and tokens[0] == "AND":
            tokens.pop(0)
            met = one() and met
        return met

    def one():
        token = tokens.pop(0)
        if token == "(":
            met = either()
            tokens.pop(0)
        else:
            met = token in allowed
        if tokens and tokens[0] == "WITH":
            del tokens[:2]
        return met

    return either()


def main():
    with open("deny.toml", "rb") as file:
        allowed = set(tomllib.load(file)["licenses"]["allow"])
    metadata = json.loads(subprocess.run(METADATA, stdout=subprocess.PIPE, check=True).stdout)
    packages = [(package["name"], package["license"] or "NONE") for package in metadata["packages"]]
    refused = [f"{name}: {licence}" for name, licence in packages if not allows(licence, allowed)]
    if refused:
        sys.exit("not allowed by deny.toml:\n  " + "\n  ".join(refused))
    print(f"{len(packages)} packages, all under {', '.join(sorted(allowed))}")


if __name__ == "__main__":
    main()
