"""Published results for comparison: tables 1 to 4 of the paper, local features (Peng et al., ECCV 2020), and scenes of NeRF.

All but those of scenes are of the test split of ShapeNet's 13 classes (Choy et al., 2016), in the units of `scores.METRICS`:
Chamfer-L1 is ten times the distance in units of the longest edge. The column 'ONet (updated)' is the table in the README of the
official code, https://github.com/autonomousvision/occupancy_networks, for the weights that were released after the paper.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from onet_jax.data.records import Index
from onet_jax.evaluation.published_scenes import SCENES

# Synset -> class, in the order of the paper's tables.
CLASSES = {
    '02691156': 'airplane',
    '02828884': 'bench',
    '02933112': 'cabinet',
    '02958343': 'car',
    '03001627': 'chair',
    '03211117': 'display',
    '03636649': 'lamp',
    '03691459': 'loudspeaker',
    '04090263': 'rifle',
    '04256520': 'sofa',
    '04379243': 'table',
    '04401088': 'telephone',
    '04530566': 'vessel',
}

# Table 1, single image 3D reconstruction (section 4.2). The point sets of PSGN have neither an inside nor normals, the patches
# of AtlasNet do not enclose a volume.
IOU = """
             3D-R2N2    PSGN       Pixel2Mesh  AtlasNet   ONet (paper)  ONet (updated)
airplane     0.426      -          0.420       -          0.571         0.591
bench        0.373      -          0.323       -          0.485         0.492
cabinet      0.667      -          0.664       -          0.733         0.750
car          0.661      -          0.552       -          0.737         0.746
chair        0.439      -          0.396       -          0.501         0.530
display      0.440      -          0.490       -          0.471         0.518
lamp         0.281      -          0.323       -          0.371         0.400
loudspeaker  0.611      -          0.599       -          0.647         0.677
rifle        0.375      -          0.402       -          0.474         0.480
sofa         0.626      -          0.613       -          0.680         0.693
table        0.420      -          0.395       -          0.506         0.542
telephone    0.611      -          0.661       -          0.720         0.746
vessel       0.482      -          0.397       -          0.530         0.547
mean         0.493      -          0.480       -          0.571         0.593
"""
CHAMFER_L1 = """
             3D-R2N2    PSGN       Pixel2Mesh  AtlasNet   ONet (paper)  ONet (updated)
airplane     0.227      0.137      0.187       0.104      0.147         0.134
bench        0.194      0.181      0.201       0.138      0.155         0.150
cabinet      0.217      0.215      0.196       0.175      0.167         0.153
car          0.213      0.169      0.180       0.141      0.159         0.149
chair        0.270      0.247      0.265       0.209      0.228         0.206
display      0.314      0.284      0.239       0.198      0.278         0.258
lamp         0.778      0.314      0.308       0.305      0.479         0.368
loudspeaker  0.318      0.316      0.285       0.245      0.300         0.266
rifle        0.183      0.134      0.164       0.115      0.141         0.143
sofa         0.229      0.224      0.212       0.177      0.194         0.181
table        0.239      0.222      0.218       0.190      0.189         0.182
telephone    0.195      0.161      0.149       0.128      0.140         0.127
vessel       0.238      0.188      0.212       0.151      0.218         0.201
mean         0.278      0.215      0.216       0.175      0.215         0.194
"""
NORMAL_CONSISTENCY = """
             3D-R2N2    PSGN       Pixel2Mesh  AtlasNet   ONet (paper)  ONet (updated)
airplane     0.629      -          0.759       0.836      0.840         0.845
bench        0.678      -          0.732       0.779      0.813         0.814
cabinet      0.782      -          0.834       0.850      0.879         0.884
car          0.714      -          0.756       0.836      0.852         0.852
chair        0.663      -          0.746       0.791      0.823         0.829
display      0.720      -          0.830       0.858      0.854         0.857
lamp         0.560      -          0.666       0.694      0.731         0.751
loudspeaker  0.711      -          0.782       0.825      0.832         0.842
rifle        0.670      -          0.718       0.725      0.766         0.783
sofa         0.731      -          0.820       0.840      0.863         0.867
table        0.732      -          0.784       0.832      0.858         0.860
telephone    0.817      -          0.907       0.923      0.935         0.939
vessel       0.629      -          0.699       0.756      0.794         0.797
mean         0.695      -          0.772       0.811      0.834         0.840
"""
# Table 2, point cloud completion (section 4.3): 300 points with noise 0.005.
POINT_CLOUDS = """
              iou    chamfer_l1  normal_consistency
3D-R2N2       0.565  0.169       0.719
PSGN          -      0.144       -
DMC           0.674  0.117       0.848
ONet (paper)  0.778  0.079       0.895
"""
# Table 3, voxel super-resolution (section 4.4). The input is the surface of the 32^3 voxels.
VOXELS = """
              iou    chamfer_l1  normal_consistency
input         0.631  0.136       0.810
ONet (paper)  0.703  0.109       0.879
"""

# Table 4, ablations of single image reconstruction (section 4.6).
ABLATIONS = """
            iou    chamfer_l1  normal_consistency
Uniform     0.571  0.215       0.834
Uniform 64  0.554  0.256       0.829
Equal       0.475  0.291       0.835
Surface     0.536  0.254       0.822
Full        0.571  0.215       0.834
No ResNet   0.559  0.243       0.831
No CBN      0.522  0.301       0.806
"""

# Local features (Peng et al., ECCV 2020), from 3,000 points.
LOCAL_FEATURES = """
            iou    chamfer_l1  normal_consistency  f_score
One code    0.761  0.087       0.891               0.785
One plane   0.833  0.059       0.914               0.887
Planes      0.884  0.044       0.938               0.942
Grid        0.870  0.048       0.937               0.933
"""


# Later papers, of their own methods: on the same classes and split, by their own evaluations. By the number of input points.
AIR_NETS = """
          iou    chamfer_l1  normal_consistency  f_score
ConvONet  0.801  0.061       0.908               0.871
AIR-Nets  0.869  0.047       0.929               0.930
"""
LOCAL_N2NM = """
      iou  chamfer_l1  normal_consistency  f_score
SAP   -    0.034       0.944               0.975
POCO  -    0.030       0.950               0.984
ALTO  -    0.028       0.955               0.985
"""


class Published(NamedTuple):
    """One table of a paper, all of the test split."""

    source: str  # the paper, its table and its data
    methods: tuple[str, ...]  # in its order
    # metric -> class or 'mean' -> method -> value, NaN where there is none
    values: dict[str, dict[str, dict[str, float]]]
    classes: tuple[str, ...] = ()  # over which the means are; () where they are of no classes
    picture_size: tuple[int, int] | None = None  # width and height in px, of pictures

    @property
    def has_classes(self) -> bool:
        """Whether there are values of the classes, not only their mean."""
        return any(len(rows) > 1 for rows in self.values.values())


def _parse(text: str) -> dict[str, dict[str, float]]:
    """A table as printed above -> row -> column -> value; '-' is NaN."""
    header, *lines = (re.split(r'\s{2,}', line.strip()) for line in text.strip().splitlines())
    return {
        row: dict(zip(header, (float(cell.replace('-', 'nan')) for cell in cells), strict=True))
        for row, *cells in lines
    }


def _source(table: str) -> str:
    return f'Mescheder et al., CVPR 2019, {table}; ShapeNet, 13 classes, test split'


def _by_class(table: str, **metrics: str) -> Published:
    values = {metric: _parse(text) for metric, text in metrics.items()}
    return Published(_source(table), tuple(values['iou']['mean']), values, tuple(CLASSES.values()))


def _means(table: str, text: str) -> Published:
    rows = _parse(text)
    metrics = next(iter(rows.values()))
    values = {metric: {'mean': {method: row[metric] for method, row in rows.items()}} for metric in metrics}
    return Published(_source(table), tuple(rows), values, tuple(CLASSES.values()))


LATER = {
    300: (_parse(AIR_NETS), 'AIR-Nets (Giebenhain and Goldluecke, 3DV 2021), table 2'),
    3000: (_parse(LOCAL_N2NM), 'LocalN2NM, table 1'),
}
# By the field that is the input.
TABLES = {
    'image': _by_class('table 1', iou=IOU, chamfer_l1=CHAMFER_L1, normal_consistency=NORMAL_CONSISTENCY),
    'cloud': _means('table 2', POINT_CLOUDS),
    'voxels': _means('table 3', VOXELS),
}


def published_row(inputs: Sequence[str], label: str) -> dict[str, float]:
    """metric -> published mean of an experiment; empty where nothing was published.

    label: 'Input', 'ONet' or another method of the table of these inputs, or a row of ABLATIONS or LOCAL_FEATURES.
    """
    others = _parse(ABLATIONS) | _parse(LOCAL_FEATURES)
    if label in others:
        return others[label]
    method = {'ONet': 'ONet (paper)', 'Input': 'input'}.get(label, label)
    table = find_table(inputs)
    values = table.values if table else {}
    return {metric: rows['mean'][method] for metric, rows in values.items() if method in rows['mean']}


def find_published(inputs: Sequence[str], index: Index) -> Published | None:
    """The table of the experiment with these inputs; None where there is none or the dataset is another.

    Of posed pictures it is what was published of the scene with the name of their folder, in the layout of its dataset. A
    dataset is taken for ShapeNet when it was imported from the official layout and one of the 13 synsets is a category: the
    layout alone does not tell, `onet export` writes it too.
    """
    if index.source.get('kind') == 'views':
        return find_scene(index.source['layout'], *index.categories)
    is_shapenet = index.source.get('kind') == 'shapenet' and not CLASSES.keys().isdisjoint(index.categories)
    return find_table(inputs) if is_shapenet else None


def find_table(inputs: Sequence[str]) -> Published | None:
    """The table of the paper for networks with these inputs; None where it has none."""
    return next((TABLES[name] for name in inputs if name in TABLES), None)


def find_scene(layout: str, name: str) -> Published | None:
    """What was published of a scene, as means without classes; None where nothing was. layout: of its files."""
    if layout not in SCENES:
        return None
    source, picture_size, texts = SCENES[layout]
    tables = {metric: _parse(text) for metric, text in texts.items()}
    if name not in tables['psnr'].keys() - {'mean'}:
        return None
    values = {metric: {'mean': rows[name]} for metric, rows in tables.items()}
    return Published(f'{source}, {name}, test split', tuple(values['psnr']['mean']), values, (), picture_size)
