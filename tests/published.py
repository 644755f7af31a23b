"""What is published of 46 architectures of timm, and what they were counted to have (timm 1.0.31, torch 2.15.0)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """Of the classifier for 1,000 classes, where nothing else is said."""

    headless_parameters: int
    """Exact, without a classifier."""

    width: int
    """Of the classifier's input."""

    size: int
    """Pixels of the square image that the figures below are for."""

    parameters: int
    """Exact."""

    giga_macs: float
    """As timm publishes them: element-wise operations included, attention not fused."""

    mega_activations: float
    """As timm publishes them."""

    flops: int
    """Exact, by torch's counter."""


PUBLISHED = {
    "resnet18": Published(11_176_512, 512, 224, 11_689_512, 1.82, 2.48, 3_628_146_688),
    "resnet34": Published(21_284_672, 512, 224, 21_797_672, 3.67, 3.74, 7_327_522_816),
    "resnet50": Published(23_508_032, 2048, 224, 25_557_032, 4.11, 11.11, 8_178_368_512),
    "resnet101": Published(42_500_160, 2048, 224, 44_549_160, 7.83, 16.23, 15_602_810_880),
    "resnet152": Published(58_143_808, 2048, 224, 60_192_808, 11.56, 22.56, 23_027_253_248),
    "resnext50_32x4d": Published(22_979_904, 2048, 224, 25_028_904, 4.26, 14.4, 8_460_959_744),
    "wide_resnet50_2": Published(66_834_240, 2048, 224, 68_883_240, 11.43, 14.4, 22_796_042_240),
    "inception_v3": Published(21_785_568, 2048, 299, 23_834_568, 5.73, 8.97, 11_426_432_192),
    "inception_v4": Published(41_142_816, 1536, 299, 42_679_816, 12.28, 15.09, 24_507_949_248),
    "inception_resnet_v2": Published(54_306_464, 1536, 299, 55_843_464, 13.18, 25.06, 26_311_588_032),
    "xception": Published(20_806_952, 2048, 299, 22_855_952, 8.4, 35.83, 16_714_806_992),
    "vgg11": Published(128_766_336, 4096, 224, 132_863_336, 7.61, 7.44, 15_218_180_096),
    "vgg16": Published(134_260_544, 4096, 224, 138_357_544, 15.47, 13.56, 30_940_528_640),
    "vgg16_bn": Published(134_268_992, 4096, 224, 138_365_992, 15.5, 13.56, 30_940_528_640),
    "vgg19": Published(139_570_240, 4096, 224, 143_667_240, 19.63, 14.86, 39_264_124_928),
    "densenet121": Published(6_953_856, 1024, 224, 7_978_856, 2.87, 6.9, 5_668_323_328),
    "efficientnet_b0": Published(4_007_548, 1280, 224, 5_288_548, 0.4, 6.75, 771_629_504),
    "efficientnet_b1": Published(6_513_184, 1280, 256, 7_794_184, 0.77, 12.22, 1_486_607_360),
    "efficientnet_b3": Published(10_696_232, 1536, 288, 12_233_232, 1.63, 21.49, 3_178_396_192),
    "efficientnet_b4": Published(17_548_616, 1792, 320, 19_341_616, 3.13, 34.76, 6_127_374_016),
    "tf_efficientnetv2_s": Published(20_177_488, 1280, 300, 21_458_488, 5.35, 22.73, 10_615_122_496),
    "efficientnetv2_rw_s": Published(22_148_296, 1792, 288, 23_941_296, 4.91, 21.41, 9_725_402_624),
    "mobilenetv2_100": Published(2_223_872, 1280, 224, 3_504_872, 0.31, 6.68, 601_548_544),
    "mobilenetv3_small_100": Published(1_517_856, 1024, 224, 2_542_856, 0.06, 1.42, 113_020_800),
    "mobilenetv3_large_100": Published(4_202_032, 1280, 224, 5_483_032, 0.23, 4.41, 433_179_520),
    "mobilenetv4_conv_small": Published(2_493_024, 1280, 224, 3_774_024, 0.19, 1.97, 372_011_136),
    "regnety_032": Published(17_923_338, 1512, 224, 19_436_338, 3.2, 11.26, 6_352_965_504),
    "convnext_tiny": Published(27_820_128, 768, 224, 28_589_128, 4.47, 13.44, 8_911_062_528),
    "convnext_small": Published(49_454_688, 768, 224, 50_223_688, 8.71, 21.56, 17_367_424_512),
    "convnext_base": Published(87_566_464, 1024, 224, 88_591_464, 15.38, 28.75, 30_709_458_944),
    "convnextv2_tiny": Published(27_866_496, 768, 224, 28_635_496, 4.47, 13.44, 8_911_062_528),
    "deit_tiny_patch16_224": Published(5_524_416, 192, 224, 5_717_416, 1.26, 5.97, 2_507_366_400),
    "vit_tiny_patch16_224": Published(5_524_416, 192, 224, 5_717_416, 1.26, 5.97, 2_507_366_400),
    "vit_small_patch16_224": Published(21_665_664, 384, 224, 22_050_664, 4.61, 11.95, 9_197_764_608),
    "vit_base_patch16_224": Published(85_798_656, 768, 224, 86_567_656, 17.58, 23.9, 35_127_656_448),
    "vit_base_patch32_224": Published(87_455_232, 768, 224, 88_224_232, 4.41, 5.01, 8_818_372_608),
    "vit_small_patch14_dinov2": Published(22_056_192, 384, 518, 22_056_192, 46.76, 198.79, 93_393_478_656),
    "vit_base_patch16_clip_224": Published(85_799_424, 768, 224, 86_568_424, 17.58, 23.9, 35_127_656_448),
    "swin_tiny_patch4_window7_224": Published(27_519_354, 768, 224, 28_288_354, 4.51, 17.06, 8_981_133_312),
    "swin_small_patch4_window7_224": Published(48_837_258, 768, 224, 49_606_258, 8.77, 27.47, 17_481_750_528),
    "swin_base_patch4_window7_224": Published(86_743_224, 1024, 224, 87_768_224, 15.47, 36.63, 30_861_893_632),
    "swinv2_tiny_window8_256": Published(27_578_154, 768, 256, 28_347_154, 5.96, 24.57, 11_879_380_992),
    "beit_base_patch16_224": Published(85_761_984, 768, 224, 86_530_984, 17.58, 23.9, 35_127_656_448),
    "mixer_b16_224": Published(59_111_472, 768, 224, 59_880_472, 12.62, 14.53, 25_203_535_872),
    "maxvit_tiny_tf_224": Published(30_403_528, 512, 224, 30_916_528, 5.6, 35.78, 11_103_673_312),
    "coatnet_0_rw_224": Published(26_666_562, 768, 224, 27_435_562, 4.43, 18.73, 8_812_601_856),
}
