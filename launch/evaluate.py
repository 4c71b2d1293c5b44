"""Evaluate a workdir by the paper's protocol: onet evaluate --workdir=W [--split=test] [--data_dir=D].

Writes W/evaluation/SPLIT/, of weights that travel (--workdir=objects) evaluation_of_NAME/SPLIT/ in this folder: rows.csv (each
shape), table.csv and table.md (means of the classes, beside published numbers where they exist) and protocol.json; of rendered
views also index.html, contact_sheet.png and views/, which show them beside the true ones. Prints the table.

    --calibrate     first chooses the threshold on the validation split, for onet reconstruct too
    --threshold=T   evaluates at this threshold, whatever config and calibration say
    --inputs        scores the inputs themselves, the paper's row "Input", into W/evaluation/SPLIT_inputs
    --fixed_views   renders the views that are the same of all shapes, into W/evaluation/SPLIT_fixed_views
    --inception=F   of rendered views also FID and feature-L1; F has the weights of torchvision's inception_v3
"""

from absl import flags

from onet_jax.errors import InputError

from . import making_shapes, run_command, tell_next

WORKDIR = flags.DEFINE_string('workdir', None, 'Trained network.', required=True)
DATA_DIR = flags.DEFINE_string('data_dir', None, 'Dataset; the one of the training run by default.')
SPLIT = flags.DEFINE_string('split', 'test', "'train', 'val' or 'test'.")
CALIBRATE = flags.DEFINE_bool('calibrate', False, 'Choose the threshold first, on the split config.eval.split.')
THRESHOLD = flags.DEFINE_float('threshold', None, 'A probability.', lower_bound=0, upper_bound=1)
INPUTS = flags.DEFINE_bool('inputs', False, 'Score the inputs instead of the reconstructions: points or voxels.')
FIXED_VIEWS = flags.DEFINE_bool('fixed_views', False, 'Render the fixed views instead of the random ones.')
INCEPTION = flags.DEFINE_string('inception', None, 'Weights of Inception-v3 for FID, .pth or .safetensors.')


def main(_):
    from onet_jax.data.datasets import open_dataset
    from onet_jax.data.fields import input_names
    from onet_jax.evaluation.evaluate import describe_protocol, evaluate, return_inputs
    from onet_jax.evaluation.fid import compare_features, load_inception
    from onet_jax.evaluation.published import find_published
    from onet_jax.evaluation.report import write_views
    from onet_jax.evaluation.tables import write_results
    from onet_jax.run import at_threshold, calibrate_run, evaluation_folder, load_run

    if INPUTS.value and (CALIBRATE.value or THRESHOLD.value is not None):
        raise InputError('--inputs: expected neither --calibrate nor --threshold, inputs have no threshold; found one')
    run = load_run(WORKDIR.value)
    data_dir = DATA_DIR.value or run.data_dir
    if data_dir is None:
        raise InputError('--data_dir: expected a dataset, for this workdir was not trained here; found none')
    protocol = {'workdir': WORKDIR.value, 'dataset': DATA_DIR.value or run.data_dir.name}
    dataset = open_dataset(data_dir)
    kind = 'inputs' if INPUTS.value else 'fixed_views' if FIXED_VIEWS.value else ''
    protocol |= describe_protocol(run.config, dataset, SPLIT.value) | {'evaluated': kind or 'reconstructions'}
    if INPUTS.value:
        run = run._replace(method=run.method._replace(predict=return_inputs(run.config)))
    else:
        if CALIBRATE.value:
            run = calibrate_run(run, data_dir)
        if THRESHOLD.value is not None:
            run = at_threshold(run, THRESHOLD.value, '--threshold')
        protocol |= {'checkpoint_step': run.step}
        if 'threshold' in run.config.eval:
            protocol |= {'threshold': run.config.eval.threshold, 'threshold_from': run.threshold_from}
    extract = load_inception(INCEPTION.value, run.config.data) if INCEPTION.value else None
    results = list(evaluate(run.method, run.params, run.config, dataset, SPLIT.value, FIXED_VIEWS.value))
    protocol |= compare_features(results, extract)
    folder = evaluation_folder(run) / (f'{SPLIT.value}_{kind}' if kind else SPLIT.value)
    write_results(folder, results, protocol, find_published(input_names(run.config.data), dataset.index))
    write_views(folder, results, protocol)
    tell_next(f'{folder}: written', *making_shapes(run.config, WORKDIR.value))


if __name__ == '__main__':
    run_command(main)
