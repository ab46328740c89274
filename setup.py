"""The packages of the wheel: frcnn_jax, and the folder configs/ as frcnn_jax.configs."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["frcnn_jax*"]), "frcnn_jax.configs"],
    package_dir={"frcnn_jax.configs": "configs"},
)
