"""Prompts as a trie: which paths there are, what they share, and who computes what."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from radlite_batch.engine.trie import sort_paths

# Prompts made of a few repeated stretches, so that deep prefixes are shared.
STRETCHES = ([7, 7, 7], [7, 300], [70000], [1, 2])
PROMPTS = st.lists(
    st.lists(st.sampled_from(STRETCHES), min_size=1, max_size=5).map(lambda parts: [t for part in parts for t in part]),
    max_size=12,
)


def arrays(*prompts: list[int]) -> list[np.ndarray]:
    return [np.array(prompt, dtype=np.int32) for prompt in prompts]


def prefixes(prompts: list[list[int]]) -> set[tuple[int, ...]]:
    return {tuple(prompt[: n + 1]) for prompt in prompts for n in range(len(prompt))}


def test_paths_stand_in_trie_order_with_what_each_shares_with_the_one_before() -> None:
    paths, numbers = sort_paths(arrays([5, 9], [5, 1, 1], [2], [5, 1, 3, 4]))
    assert [path.tolist() for path in paths.tokens] == [[2], [5, 1, 1], [5, 1, 3, 4], [5, 9]]
    assert paths.lengths == [1, 3, 4, 2]
    assert paths.shared == [0, 0, 2, 1]
    assert numbers == [3, 1, 0, 2]
    assert paths.unique_tokens == 7


def test_order_is_by_token_id_not_by_bytes_of_the_machine() -> None:
    paths, _ = sort_paths(arrays([256], [255], [65536], [1]))
    assert [path.tolist() for path in paths.tokens] == [[1], [255], [256], [65536]]


def test_equal_prompts_share_a_path() -> None:
    paths, numbers = sort_paths(arrays([4, 4], [3], [4, 4], [4, 4]))
    assert numbers == [1, 0, 1, 1]
    assert paths.lengths == [1, 2]


def test_a_prompt_that_begins_another_comes_before_it_and_owns_the_common_tokens() -> None:
    paths, numbers = sort_paths(arrays([1, 2, 3], [1, 2]))
    assert numbers == [1, 0]
    assert paths.shared == [0, 2]
    assert [paths.owner(1, position) for position in range(3)] == [0, 0, 1]


def test_a_token_belongs_to_the_first_path_through_it_however_far_back() -> None:
    paths, _ = sort_paths(arrays([1, 1, 1], [1, 1, 2], [1, 2, 2], [1, 3]))
    assert paths.owner(3, 0) == 0
    assert paths.owner(1, 1) == 0
    assert paths.owner(2, 1) == 2


def test_nothing_in_hand_is_an_empty_trie() -> None:
    paths, numbers = sort_paths([])
    assert (paths.tokens, paths.shared, numbers, paths.unique_tokens) == ([], [], [], 0)


@given(PROMPTS)
def test_every_prefix_is_held_once_by_an_owner_that_passes_through_it(prompts: list[list[int]]) -> None:
    paths, numbers = sort_paths(arrays(*prompts))
    assert [paths.tokens[number].tolist() for number in numbers] == prompts
    assert len({path.tobytes() for path in paths.tokens}) == len(paths.tokens)
    assert paths.unique_tokens == len(prefixes(prompts))

    owners: dict[tuple[int, ...], int] = {}
    for i, path in enumerate(paths.tokens):
        assert path.dtype == np.int32
        for position in range(len(path)):
            owner = paths.owner(i, position)
            assert position >= paths.shared[owner]  # it is the owner's own run that holds the token
            assert owners.setdefault(tuple(path[: position + 1].tolist()), owner) == owner
            assert np.array_equal(paths.tokens[owner][: position + 1], path[: position + 1])
