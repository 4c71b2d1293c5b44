"""Scores of sequences: by time, their means, correspondence; against the official evaluation."""

import numpy as np
import pytest
import trimesh
from moving_shapes import NUM_FRAMES, egg_target, moved, moving_egg

from onet_jax import metrics
from onet_jax.geometry.inside import contains
from onet_jax.geometry.sequences import (
    ChangingMeshes,
    CloudSequence,
    MeshSequence,
    frames_of,
    match_nearest,
    move,
    trajectories_of,
)  # fmt: skip
from onet_jax.scores import EMPTY, METRICS, Target, as_geometry, floor, is_solid, score, score_by_time

NORMALS = {'normal_consistency', 'normals_accuracy', 'normals_completeness'}
EGG, LONGEST = moving_egg(), 3**0.5


@pytest.fixture(scope='module')
def target():
    return egg_target()


def test_the_correspondence_is_that_of_the_official_evaluation(golden):
    data = golden('flow/metrics/oflow_sequence_eval.npz')
    surface, vertices = data['in/target_pointclouds'], data['in/mesh_vertices']
    cloud = np.stack([data[f'in/pred_pointcloud_{k}'] for k in range(len(surface))])
    for points, project, name, kind in (
        (vertices, False, 'mesh_noproject', 'mesh'),
        (vertices, True, 'mesh_project', 'mesh'),
        (cloud, False, 'pointcloud', 'pcl'),
    ):
        official = [data[f'out/eval_correspondences_{name}/l2 {k} ({kind})'] for k in range(len(surface))]
        found = metrics.correspondence_l2(points, surface, project)
        np.testing.assert_allclose(found, official, rtol=5e-8, err_msg=name)  # float32 there


def test_the_other_scores_of_a_frame_are_the_official_ones(golden):
    """Of frame 0, with its samples of the surface; the official Chamfer distance is the sum of both squared ones."""
    data = golden('flow/metrics/oflow_sequence_eval.npz')
    surface = data['in/target_pointclouds'][0]
    unknown = np.full_like(surface, np.nan)
    for points, name, kind in (
        (data['in/mesh_sample_0'], 'mesh', 'mesh'),
        (data['in/pred_pointcloud_0'], 'pointcloud', 'pcl'),
    ):
        found = metrics.surface_metrics(points, np.full_like(points, np.nan), surface, unknown)
        official = {
            key: data[f'out/eval_{name}/{key} 0 ({kind})']
            for key in ('accuracy', 'completeness', 'accuracy2', 'completeness2', 'chamfer')
        }
        found['chamfer'] = 2 * found['chamfer_l2']
        for key, value in official.items():
            assert found[key] == pytest.approx(float(value), rel=2e-6), (name, key)
    mesh = trimesh.Trimesh(data['in/mesh_vertices'][0], data['in/mesh_faces'], process=False)
    found = metrics.iou(contains(mesh, data['in/points_iou'][0]), data['in/occ_tgt'][0])
    assert found == pytest.approx(float(data['out/eval_mesh/iou 0 (mesh)']), rel=1e-6)


@pytest.mark.parametrize('kind', ['mesh', 'changing meshes', 'cloud'])
def test_the_true_sequence_scores_as_the_floor_does_in_every_frame(target, kind):
    """Meshes without correspondence are matched from frame to frame, which loses the places."""
    prediction = {
        'mesh': EGG,
        'changing meshes': ChangingMeshes(tuple(frames_of(EGG))),
        'cloud': CloudSequence(moved(target.surface[0])[:, ::-1]),
    }[kind]
    by_time, means, best = score_by_time(prediction, target), score(prediction, target), floor(target)
    assert by_time.keys() == means.keys() == best.keys() == EMPTY.keys() - NORMALS | {'correspondence_l2'}
    assert {len(values) for values in by_time.values()} == {NUM_FRAMES}
    for name, values in by_time.items():
        assert means[name] == pytest.approx(np.mean(values), nan_ok=True), name
    assert np.isnan(means['iou']) if kind == 'cloud' else means['iou'] > 0.97
    if kind == 'mesh':
        for name in ('chamfer_l1', 'accuracy2', 'f_score', 'correspondence_l2'):
            np.testing.assert_allclose(by_time[name], best[name], rtol=0.25, err_msg=name)
    if kind == 'changing meshes':
        assert by_time['correspondence_l2'][0] < 1.3 * best['correspondence_l2'] < by_time['correspondence_l2'][-1] / 5
    if kind == 'cloud':
        assert max(by_time['correspondence_l2']) < 1e-6


def test_what_stays_behind_is_worse_from_time_to_time(target):
    """By the way of each place: a quarter turn of an egg half as wide as it is long, and a rise."""
    still = MeshSequence(EGG.vertices[:1].repeat(NUM_FRAMES, axis=0), EGG.faces)
    by_time = score_by_time(still, target)
    assert by_time['iou'] == sorted(by_time['iou'], reverse=True)
    assert by_time['correspondence_l2'] == sorted(by_time['correspondence_l2'])
    way = np.linalg.norm(target.surface[-1] - target.surface[0], axis=-1).mean()
    assert by_time['correspondence_l2'][-1] == pytest.approx(way, rel=0.15)


def test_the_last_frame_may_be_projected_to_the_target(target):
    """As shape matching is scored: only how far off along the surface a vertex ends counts."""
    thick = EGG._replace(
        vertices=np.concatenate([EGG.vertices[:-1], 1.1 * (EGG.vertices[-1:] - [0, 0.3, 0]) + [0, 0.3, 0]])
    )
    plain, projected = (
        score_by_time(thick, target._replace(project_last=p))['correspondence_l2'] for p in (False, True)
    )
    assert plain[:-1] == projected[:-1]
    assert projected[-1] < 0.8 * plain[-1]


def test_a_frame_without_a_mesh_has_the_worst_values(target):
    """Whoever follows the surface has lost it in all later frames."""
    meshes = frames_of(EGG)
    meshes[2] = trimesh.Trimesh()
    by_time = score_by_time(ChangingMeshes(tuple(meshes)), target._replace(project_last=True))
    assert [value == 0 for value in by_time['iou']] == [k == 2 for k in range(NUM_FRAMES)]
    assert [value == LONGEST for value in by_time['correspondence_l2']] == [False, False, True, True, True]
    none = score(MeshSequence(np.zeros((NUM_FRAMES, 0, 3)), np.zeros((0, 3), int)), target)
    assert none == {name: METRICS[name].worst for name in none}


def test_sequences_of_other_lengths_and_things_that_are_none_are_named(target):
    with pytest.raises(ValueError, match='prediction: expected 5 frames, as the target has, found 4'):
        score(moving_egg(4), target)
    for function in (frames_of, trajectories_of, lambda it: move(it, np.negative)):
        with pytest.raises(TypeError, match=r"expected a sequence, one of \['MeshSequence',.* found <class 'list'>"):
            function([])


def test_every_mesh_of_a_solid_is_one(target):
    changing = ChangingMeshes(tuple(frames_of(EGG)))
    torn = ChangingMeshes((*frames_of(EGG)[:-1], trimesh.Trimesh(EGG.vertices[-1], EGG.faces[1:], process=False)))
    assert [is_solid(each, target) for each in (EGG, changing, torn)] == [True, True, False]
    empty = ChangingMeshes((trimesh.Trimesh(),) * NUM_FRAMES)
    assert {is_solid(each, target) for each in (CloudSequence(EGG.vertices), empty)} == {None}
    np.testing.assert_array_equal(as_geometry(EGG).vertices, EGG.vertices[0])
    assert isinstance(target.frame(2), Target)


def test_nearest_neighbours_are_followed_from_frame_to_frame():
    line, x = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]]), np.array([1, 0, 0])
    followed = match_nearest([line[:2], line[::-1] + 0.4 * x, line + 0.8 * x])
    np.testing.assert_allclose(followed[:, :, 0], [[0, 1], [0.4, 1.4], [0.8, 1.8]])
    np.testing.assert_allclose(match_nearest([line[:1], line + 0.6 * x, line])[:, 0, 0], [0, 0.6, 1])


def test_a_sequence_is_moved_frame_by_frame():
    for sequence in (EGG, ChangingMeshes(tuple(frames_of(EGG))), CloudSequence(EGG.vertices)):
        found = move(sequence, lambda points: 2 * points + [1, 0, 0])
        np.testing.assert_allclose(trajectories_of(found)[0], 2 * EGG.vertices[0] + [1, 0, 0])
        assert [len(frame.vertices) for frame in frames_of(found)] == [len(EGG.vertices[0])] * NUM_FRAMES
