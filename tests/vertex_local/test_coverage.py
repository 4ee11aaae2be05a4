from containers.vertex_local import coverage
from containers.vertex_local.api.methods import method_names
from containers.vertex_local.app import SERVICES


def test_the_table_of_the_readme_is_that_of_the_routes() -> None:
    readme = coverage.README.read_text(encoding="utf-8")
    assert coverage.with_table(readme) == readme, "run python -m containers.vertex_local.coverage"


def test_every_method_of_the_services_is_in_the_table() -> None:
    for service in SERVICES:
        [row] = [row for row in coverage.table().splitlines() if row.startswith(f"| {service}, ")]
        assert all(name in row for name in method_names(service))
