"""What pyproject.toml cannot say: the checkout's conf/ is installed as yinggem/conf, and the engine is compiled."""

from glob import glob

from setuptools import Extension, find_packages, setup

# A plain shared library, opened with ctypes. It is optional: where there is no C compiler, or one other than gcc and
# clang, the package is installed without it and torch decodes.
ENGINE = Extension(
    "yinggem.engine._engine",
    sources=["yinggem/engine/engine.c"],
    depends=glob("yinggem/engine/*.h"),
    # -ffp-contract=off: a loop gives the same sums whether or not it was vectorised.
    extra_compile_args=[
        "-std=c11",
        "-O3",
        "-g0",
        "-ffp-contract=off",
        "-fno-math-errno",
        "-fno-trapping-math",
        "-pthread",
    ],
    extra_link_args=["-pthread"],
    libraries=["m"],
    optional=True,
)

setup(
    packages=[*find_packages(include=["yinggem", "yinggem.*"]), "yinggem.conf", "hydra_plugins"],
    package_dir={"yinggem.conf": "conf"},
    ext_modules=[ENGINE],
)
