import jax
import pytest

from onet_jax.training.profile import traced


@pytest.mark.parametrize('num_steps, first, last', [(100, 11, 15), (12, 8, 12), (3, 1, 3)])
def test_steps_after_the_first_ones_are_traced(tmp_path, monkeypatch, num_steps, first, last, capsys):
    events = []

    def stop_trace():
        events.append('stop')
        (tmp_path / 'plugins' / 'profile' / 'now').mkdir(parents=True)
        (tmp_path / 'plugins' / 'profile' / 'now' / 'host.xplane.pb').touch()

    monkeypatch.setattr(jax.profiler, 'start_trace', lambda folder, **options: events.append('start'))
    monkeypatch.setattr(jax.profiler, 'stop_trace', stop_trace)
    step_fn = traced(lambda state, raw, key: events.append(raw) or (state, {}), tmp_path, num_steps)
    for step in range(1, num_steps + 1):
        assert step_fn('state', step, None) == ('state', {})
    assert events.index('start') == first - 1
    assert events.index('stop') == last + 1
    assert (events.count('start'), events.count('stop')) == (1, 1)
    assert f'xprof --logdir={tmp_path}`' in capsys.readouterr().out
