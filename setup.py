"""What pyproject.toml cannot say: the checkout's conf/ is installed as yinggem/conf."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["yinggem", "yinggem.*"]), "yinggem.conf", "hydra_plugins"],
    package_dir={"yinggem.conf": "conf"},
)
