import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containers.vertex_local import messages
from containers.vertex_local.errors import InvalidArgumentError
from containers.vertex_local.services import filters, listing

FIELDS = {"display_name": filters.text(lambda model: model.display_name)}
ORDER = ("display_name", "create_time", "update_time")


def model(number: int, display_name: str, seconds: int) -> Any:
    made = messages.Model(name=str(number), display_name=display_name)
    made.create_time.seconds = seconds
    return made


models = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3)), max_size=12).map(
    lambda pairs: [model(number, *pair) for number, pair in enumerate(pairs)]
)


def list_all(resources: list[Any], page_size: int, **fields: Any) -> list[list[Any]]:
    """All pages, by the tokens that lead from one to the next."""
    pages, token = [], ""
    while True:
        request = messages.ListModelsRequest(page_size=page_size, page_token=token, **fields)
        page, token = listing.page(resources, request, FIELDS, ORDER)
        pages.append(page)
        if not token:
            return pages


@given(resources=models, page_size=st.integers(1, 5))
def test_pages_make_up_the_list(resources: list[Any], page_size: int) -> None:
    pages = list_all(resources, page_size, filter='display_name!="a"')
    wanted = [resource for resource in resources if resource.display_name != "a"]
    assert [resource for page in pages for resource in page] == wanted
    assert all(len(page) == page_size for page in pages[:-1])
    assert len(pages) == max(1, -(-len(wanted) // page_size))


def test_a_page_has_100_at_first_and_1000_at_most() -> None:
    resources = [model(number, "a", 0) for number in range(1200)]
    assert [len(page) for page in list_all(resources, 0)][:2] == [100, 100]
    assert [len(page) for page in list_all(resources, 5000)] == [1000, 200]


@given(resources=models, name_desc=st.booleans(), time_desc=st.booleans())
def test_the_first_key_counts_first_and_what_is_equal_stays(
    resources: list[Any], name_desc: bool, time_desc: bool
) -> None:
    order = f"displayName{' desc' if name_desc else ''} , create_time {'desc' if time_desc else 'asc'}"
    [page] = list_all(resources, 100, order_by=order)
    signs = (-1 if name_desc else 1, -1 if time_desc else 1)
    assert page == sorted(
        resources,
        key=lambda made: (signs[0] * ord(made.display_name), signs[1] * made.create_time.seconds, int(made.name)),
    )


@pytest.mark.parametrize("order", ["name", "create_time up", "create_time,", ",", "create_time desc desc", "labels.a"])
def test_an_order_that_is_none_is_refused(order: str) -> None:
    with pytest.raises(InvalidArgumentError, match="display_name, create_time, update_time"):
        list_all([model(0, "a", 0)], 10, order_by=order)


@given(token=st.text(min_size=1) | st.binary(min_size=1).map(lambda token: base64.urlsafe_b64encode(token).decode()))
def test_a_token_that_no_list_gave_is_refused(token: str) -> None:
    request = messages.ListModelsRequest(page_token=token)
    with pytest.raises(InvalidArgumentError, match="pageToken"):
        listing.page([model(0, "a", 0)], request, FIELDS, ORDER)


@pytest.mark.parametrize("content", ["from -1", "from  1", "1", "from ٣", "from 1_0", "from 01", "from 1\n"])
def test_a_token_that_reads_nearly_like_one_is_refused(content: str) -> None:
    request = messages.ListModelsRequest(page_token=base64.urlsafe_b64encode(content.encode()).decode())
    with pytest.raises(InvalidArgumentError, match="pageToken"):
        listing.page([model(0, "a", 0)], request, FIELDS, ORDER)


def test_a_negative_page_size_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="pageSize -1"):
        list_all([], -1)


def test_a_read_mask_leaves_only_its_fields() -> None:
    resources = [model(7, "a", 3)]
    [[seen]] = list_all(resources, 10, read_mask={"paths": ["display_name", "create_time.seconds"]})
    assert (seen.display_name, seen.name, seen.create_time.seconds) == ("a", "", 3)
    assert resources == [model(7, "a", 3)]
    with pytest.raises(InvalidArgumentError, match="'name,colour' names no fields of Model"):
        list_all(resources, 10, read_mask={"paths": ["name", "colour"]})
