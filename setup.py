"""Builds the C module where there is a compiler; without it pgrecall does the same with numpy, more slowly."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "pgrecall.postgres._native",
            sources=["src/pgrecall/postgres/_native.c"],
            define_macros=[("Py_LIMITED_API", "0x030B0000")],
            py_limited_api=True,
            optional=True,
            extra_compile_args=["-O3"],
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
