"""Tell pip what the package is, and what it needs."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
PACKAGE = (HERE / "picopayments_cli" / "__init__.py").read_text(encoding="utf-8")

KERNEL = "py-bitcoinkernel==0.1.0a5"
HUB = [KERNEL, "alembic>=1.20.1,<2", "jinja2>=3.1.6,<4", "prometheus-client>=0.26.0,<1", "sqlalchemy>=2.0.58,<3"]

setup(
    name="picopayments-cli",
    version=re.findall(r'^__version__ = "(.+)"$', PACKAGE, re.MULTILINE)[0],  # read, not imported: nothing is installed
    description="Micropayments in Counterparty assets: a command-line client, and the hub that it talks to.",
    long_description=(HERE / "README.rst").read_text(encoding="utf-8"),
    long_description_content_type="text/x-rst",
    author="picopayments-cli contributors",
    license="MIT",
    classifiers=[
        "Environment :: Console",
        "License :: OSI Approved :: MIT License",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Programming Language :: Python :: 3.14",
    ],
    packages=find_packages(include=["picopayments_cli", "picopayments_cli.*"]),
    package_data={
        "picopayments_cli": ["py.typed"],
        "picopayments_cli.hub": ["migrations/*", "migrations/versions/*", "templates/*"],
    },
    python_requires=">=3.10,<3.15",
    install_requires=[
        # The lower bounds are the newest releases that serve every Python above.
        "appdirs>=1.4.4,<2",
        "argcomplete>=3.6,<4",
        "btclib-secp256k1>=0.8.0.7,<0.9",
        "cbor2>=6.3.0,<7",
        "filelock>=4.1.0,<5",
        "httptools>=0.9.0,<1",
        "json-rpc>=1.15.0,<2",
        "mnemonic>=0.21,<1",
        KERNEL + "; python_version < '3.14'",  # for later ones there is no wheel yet: connect asks for the extra
        "pynacl>=1.6.2,<2",
        "pycoin>=0.92718.20260405,<1",
        "python-bitcoinlib>=0.12.2,<0.13",
        "requests>=2.34.2,<3",
        "rich>=15.0.0,<16",
        "segno>=1.6.6,<2",
        "starlette>=1.7.0,<2",
        "uvicorn>=0.54.0,<1",
    ],
    extras_require={
        "hub": HUB,
        "kernel": [KERNEL],  # compiled by pip where there is no wheel
        "postgres": [*HUB, "psycopg[binary]>=3.3.9,<4"],  # for --database postgresql+psycopg://...
        "regtest": HUB,
        "socks": ["requests[socks]>=2.34.2,<3"],
    },
    entry_points={
        "console_scripts": [
            "picopayments-cli=picopayments_cli.cli:main",
            "picopayments-hub=picopayments_cli.hub.cli:main",
        ]
    },
)
