"""The packages of the wheel: frcnn_jax, and the folder configs/ as frcnn_jax.configs.

An editable installation puts this folder on the path. With setuptools' import hook in its place, a script beside a
clone named frcnn_jax would import the clone's folder, as an empty namespace, and not look for the package.
"""

import sys

from setuptools import find_packages, setup

packages = find_packages(include=["frcnn_jax*"])
if "editable_wheel" in sys.argv:
    setup(packages=packages, package_dir={"": "."})
else:
    setup(packages=[*packages, "frcnn_jax.configs"], package_dir={"frcnn_jax.configs": "configs"})
