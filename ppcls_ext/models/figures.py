"""Parameters and multiply-adds of all models: the rows are written by `python benchmarks/model_figures.py`."""

from __future__ import annotations

from typing import NamedTuple

SIZE = 224  # px


class Figures(NamedTuple):
    """What was counted on a model of 1000 classes.

    Attributes:
        unfused: trainable parameters of the training form.
        fused: parameters of the fused form.
        macs: multiply-adds of the fused form's convolutions and linear layers, for one image of `SIZE` × `SIZE` px.
    """

    unfused: int
    fused: int
    macs: int


FIGURES = {
    "MobileOne_S0": Figures(5_293_272, 2_078_504, 275_110_400),
    "MobileOne_S1": Figures(4_825_192, 4_764_840, 825_057_024),
    "MobileOne_S2": Figures(7_884_648, 7_808_168, 1_298_426_496),
    "MobileOne_S3": Figures(10_170_600, 10_078_312, 1_895_790_592),
    "MobileOne_S4": Figures(14_951_248, 14_838_352, 2_979_269_760),
    "RepVGG_A0": Figures(9_108_968, 8_309_384, 1_361_451_008),
    "RepVGG_A1": Figures(14_092_264, 12_789_864, 2_363_967_488),
    "RepVGG_A2": Figures(28_210_600, 25_499_944, 5_116_951_552),
    "RepVGG_B0": Figures(15_817_960, 14_339_048, 3_057_600_512),
    "RepVGG_B1": Figures(57_415_016, 51_829_480, 11_815_485_440),
    "RepVGG_B1g2": Figures(45_782_376, 41_360_104, 8_809_742_336),
    "RepVGG_B1g4": Figures(39_966_056, 36_125_416, 7_306_870_784),
    "RepVGG_B2": Figures(89_022_376, 80_315_112, 18_376_609_792),
    "RepVGG_B2g2": Figures(70_846_376, 63_956_712, 13_680_136_192),
    "RepVGG_B2g4": Figures(61_758_376, 55_777_512, 11_331_899_392),
    "RepVGG_B3": Figures(123_085_288, 110_960_872, 26_208_882_688),
    "RepVGG_B3g2": Figures(96_911_848, 87_404_776, 19_445_960_704),
    "RepVGG_B3g4": Figures(83_825_128, 75_626_728, 16_064_499_712),
    "RepVGG_D2se": Figures(133_334_836, 120_387_572, 32_829_551_104),
    "FasterNet_T0": Figures(3_905_500, 3_900_660, 335_422_720),
    "FasterNet_T1": Figures(7_595_368, 7_587_624, 850_511_872),
    "FasterNet_T2": Figures(14_982_888, 14_971_272, 1_904_334_848),
    "FasterNet_S": Figures(31_181_032, 31_160_424, 4_549_740_544),
    "FasterNet_M": Figures(53_521_464, 53_488_488, 8_721_938_432),
    "FasterNet_L": Figures(93_465_192, 93_421_224, 15_494_383_616),
}
