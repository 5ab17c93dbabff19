"""Work by turns: all of it is done once, results stand in the order of items, and nobody goes on after an error."""

import time
from threading import Barrier, get_ident

import pytest
import torch

from anomaly_ae.overlap import by_turns, workers


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    torch.set_num_threads(max(2, before))
    yield torch.get_num_threads()
    torch.set_num_threads(before)


@pytest.mark.parametrize("size", [1, 2, 8])
@pytest.mark.parametrize("items", [[], ["a"], list("abcdefghijk")])
def test_each_item_is_done_once_and_its_result_stands_in_its_place(size, items):
    done = []

    def work(item):
        done.append(item)
        time.sleep(0.002 * (item == "a"))  # the first is the last to end
        return item.upper()

    assert by_turns(work, items, size) == [item.upper() for item in items]
    assert sorted(done) == sorted(items)


def test_threads_work_at_once_each_by_one_of_torchs(threads):
    if workers() < 2:
        pytest.skip("needs two cores")
    together = Barrier(2, timeout=30)  # breaks where one works alone

    def work(_):
        together.wait()
        return get_ident(), torch.get_num_threads()

    found = by_turns(work, range(2), 2)
    assert get_ident() in dict(found)  # who called is one of them
    assert len(dict(found)) == 2
    assert {count for _, count in found} == {1}
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("bad", [0, 1, 5])
def test_an_error_ends_the_work(bad, threads):
    begun = []

    def work(item):
        begun.append(item)
        time.sleep(0.01)
        if item == bad:
            raise ZeroDivisionError(item)

    with pytest.raises(ZeroDivisionError, match=str(bad)):
        by_turns(work, range(1000), 2)
    at_the_end = len(begun)
    assert at_the_end <= bad + 4  # whoever of the two it befell
    time.sleep(0.05)
    assert len(begun) == at_the_end
    assert torch.get_num_threads() == threads


def test_work_for_others_goes_on_while_two_callers_share_threads(threads):
    def inner(item):
        return sum(by_turns(lambda x: x + item, range(4), 2))

    assert by_turns(inner, range(6), 2) == [6 + 4 * item for item in range(6)]
