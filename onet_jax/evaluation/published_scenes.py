"""Published results of scenes: NeRF (Mildenhall et al., ECCV 2020), of each scene, in the tables of its appendix.

PSNR in dB, SSIM, LPIPS (of the features of VGG): means of the test views. Columns are the methods that the paper compares:
SRN (Sitzmann et al., 2019), Neural Volumes (Lombardi et al., 2019), LLFF (Mildenhall et al., 2019), DeepVoxels (Sitzmann et
al., 2019). Rows have the names of the folders of the datasets.
"""

from typing import NamedTuple

SYNTHETIC_PSNR = """
           SRN     Neural Volumes  LLFF    NeRF
chair      26.96   28.33           28.72   33.00
drums      17.18   22.58           21.13   25.01
ficus      20.73   24.79           21.79   30.13
hotdog     26.81   30.71           31.41   36.18
lego       20.85   26.08           24.54   32.54
materials  18.09   24.22           20.72   29.62
mic        26.85   27.78           27.48   32.91
ship       20.60   23.93           23.22   28.65
mean       22.26   26.05           24.88   31.01
"""
SYNTHETIC_SSIM = """
           SRN     Neural Volumes  LLFF    NeRF
chair      0.910   0.916           0.948   0.967
drums      0.766   0.873           0.890   0.925
ficus      0.849   0.910           0.896   0.964
hotdog     0.923   0.944           0.965   0.974
lego       0.809   0.880           0.911   0.961
materials  0.808   0.888           0.890   0.949
mic        0.947   0.946           0.964   0.980
ship       0.757   0.784           0.823   0.856
mean       0.846   0.893           0.911   0.947
"""
SYNTHETIC_LPIPS = """
           SRN     Neural Volumes  LLFF    NeRF
chair      0.106   0.109           0.064   0.046
drums      0.267   0.214           0.126   0.091
ficus      0.149   0.162           0.130   0.044
hotdog     0.100   0.109           0.061   0.121
lego       0.200   0.175           0.110   0.050
materials  0.174   0.130           0.117   0.063
mic        0.063   0.107           0.084   0.028
ship       0.299   0.276           0.218   0.206
mean       0.170   0.160           0.114   0.081
"""
FORWARD_FACING_PSNR = """
          SRN     LLFF    NeRF
room      27.29   28.42   32.70
fern      21.37   22.85   25.17
leaves    18.24   19.52   20.92
fortress  26.63   29.40   31.16
orchids   17.37   18.52   20.36
flower    24.63   25.46   27.40
trex      22.87   24.15   26.80
horns     24.33   24.70   27.45
mean      22.84   24.13   26.50
"""
FORWARD_FACING_SSIM = """
          SRN     LLFF    NeRF
room      0.883   0.932   0.948
fern      0.611   0.753   0.792
leaves    0.520   0.697   0.690
fortress  0.641   0.872   0.881
orchids   0.449   0.588   0.641
flower    0.738   0.844   0.827
trex      0.761   0.857   0.880
horns     0.742   0.840   0.828
mean      0.668   0.798   0.811
"""
FORWARD_FACING_LPIPS = """
          SRN     LLFF    NeRF
room      0.240   0.155   0.178
fern      0.459   0.247   0.280
leaves    0.440   0.216   0.316
fortress  0.453   0.173   0.171
orchids   0.467   0.313   0.321
flower    0.288   0.174   0.219
trex      0.298   0.222   0.249
horns     0.376   0.193   0.268
mean      0.378   0.212   0.250
"""
# The paper calls 'armchair' chair and 'greek' pedestal.
DEEPVOXELS_PSNR = """
          DeepVoxels  SRN     Neural Volumes  LLFF    NeRF
armchair  33.45       36.67   35.15           36.11   42.65
greek     32.35       35.91   36.47           35.87   41.44
cube      28.42       28.74   26.48           32.58   39.19
vase      27.99       31.46   20.39           32.97   37.32
mean      30.55       33.20   29.62           34.38   40.15
"""
DEEPVOXELS_SSIM = """
          DeepVoxels  SRN     Neural Volumes  LLFF    NeRF
armchair  0.99        0.982   0.980           0.992   0.991
greek     0.97        0.957   0.963           0.983   0.986
cube      0.97        0.944   0.916           0.983   0.996
vase      0.96        0.969   0.857           0.983   0.992
mean      0.97        0.963   0.929           0.985   0.991
"""
DEEPVOXELS_LPIPS = """
          DeepVoxels  SRN     Neural Volumes  LLFF    NeRF
armchair  -           0.093   0.096           0.051   0.047
greek     -           0.081   0.069           0.039   0.024
cube      -           0.074   0.113           0.064   0.006
vase      -           0.044   0.117           0.039   0.017
mean      -           0.073   0.099           0.048   0.023
"""


class SceneTables(NamedTuple):
    """The tables of the scenes of one dataset."""

    source: str
    size: tuple[int, int]  # width and height in px of the pictures
    texts: dict[str, str]  # metric -> scenes and their mean by methods


# By the layout of their files, see `data/posed_views.py`.
SCENES = {
    'blender': SceneTables(
        'NeRF (Mildenhall et al., ECCV 2020), appendix, synthetic scenes',
        (800, 800),
        {'psnr': SYNTHETIC_PSNR, 'ssim_gaussian': SYNTHETIC_SSIM, 'lpips': SYNTHETIC_LPIPS},
    ),
    'llff': SceneTables(
        'NeRF (Mildenhall et al., ECCV 2020), appendix, forward-facing scenes',
        (1008, 756),
        {'psnr': FORWARD_FACING_PSNR, 'ssim_gaussian': FORWARD_FACING_SSIM, 'lpips': FORWARD_FACING_LPIPS},
    ),
    'deepvoxels': SceneTables(
        'NeRF (Mildenhall et al., ECCV 2020), appendix, scenes of DeepVoxels',
        (512, 512),
        {'psnr': DEEPVOXELS_PSNR, 'ssim_gaussian': DEEPVOXELS_SSIM, 'lpips': DEEPVOXELS_LPIPS},
    ),
}
