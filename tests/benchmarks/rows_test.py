"""A row of a benchmark stands for itself."""

from benchmarks import start_each


def test_what_fails_is_named_and_the_others_are_measured():
    def make_broken():
        raise RuntimeError('no kernel\nand much more')

    def make_failing():
        def work():
            raise ValueError

        return work

    works, errors = start_each({'broken': make_broken, 'fine': lambda: lambda: 1.0, 'failing': make_failing})
    assert list(works) == ['fine']
    assert errors == {'broken': 'failed: RuntimeError: no kernel', 'failing': 'failed: ValueError: '}
