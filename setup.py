"""What pyproject.toml cannot say: the table contracts in ``schemas/`` ship as the package ``lakefactor.schemas``."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages("lib"), "lakefactor.schemas"],
    package_dir={"": "lib", "lakefactor.schemas": "schemas"},
    package_data={
        "lakefactor": ["py.typed"],
        "lakefactor.pages": ["style.css", "templates/*.html"],
        "lakefactor.schemas": ["*.yaml"],
        "lakefactor.spark": ["log4j2.properties"],
    },
)
