"""Builds the C module where there is a compiler; without it pgrecall does the same with numpy, more slowly."""

from setuptools import Extension, setup

SOURCES = "src/pgrecall/postgres"

setup(
    ext_modules=[
        Extension(
            "pgrecall.postgres._native",
            sources=[f"{SOURCES}/{name}.c" for name in ("_native", "_native_crc", "_native_pages", "_native_wal")],
            depends=[f"{SOURCES}/_native.h"],
            define_macros=[("Py_LIMITED_API", "0x030B0000")],
            py_limited_api=True,
            optional=True,
            extra_compile_args=["-O3", "-fvisibility=hidden"],
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
