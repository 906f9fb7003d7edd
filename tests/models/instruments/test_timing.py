import time

from mhc_vision.models.instruments.timing import alternate


def test_functions_take_turns():
    ran = []

    def function(name):
        def run():
            ran.append(name)
            # longer than a block, so that each has one call
            time.sleep(0.011)

        return run

    measured = alternate({"a": function("a"), "b": function("b")}, seconds=0, least_rounds=3)
    # two calls to warm up, then every other round the other way round
    assert "".join(ran) == "aabbabbaab"
    assert [len(measured[name].times) for name in "ab"] == [3, 3]


def test_a_quick_function_is_called_many_times_a_round():
    calls = []
    measured = alternate({"quick": lambda: calls.append(1)}, seconds=0, least_rounds=2)["quick"]
    # long enough for the clock, and then divided by them
    assert measured.number_per_run > 1
    assert len(calls) == 2 + 2 * measured.number_per_run
    assert measured.median < 0.01
