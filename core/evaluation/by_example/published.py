"""Figures that the papers print."""

from collections.abc import Mapping

PAPER: Mapping[tuple[str, str], tuple[float, ...]] = {
    ("global", "words"): (16.10, 0.5467, 0.2810, 0.2997),
    ("global", "visii"): (15.87, 0.4947, 0.3866, 0.3938),
    ("global", "instructbrush"): (18.66, 0.5842, 0.2526, 0.2798),
    ("global", "visii_one_shot"): (16.01, 0.5071, 0.3692, 0.2909),
    ("global", "one_shot"): (17.79, 0.5761, 0.2748, 0.3008),
    ("local", "words"): (20.12, 0.7701, 0.1648, 0.5236),
    ("local", "visii"): (18.76, 0.7157, 0.2585, 0.2560),
    ("local", "instructbrush"): (23.26, 0.8297, 0.1143, 0.3576),
    ("local", "visii_one_shot"): (19.73, 0.7293, 0.2309, 0.5736),
    ("local", "one_shot"): (23.08, 0.8270, 0.1172, 0.4790),
    ("all", "words"): (17.87, 0.6450, 0.2298, 0.3982),
    ("all", "visii"): (17.14, 0.5919, 0.3303, 0.3332),
    ("all", "instructbrush"): (20.68, 0.6922, 0.1918, 0.3140),
    ("all", "visii_one_shot"): (17.65, 0.6049, 0.3083, 0.4153),
    ("all", "one_shot"): (20.11, 0.6865, 0.2055, 0.3792),
    ("all", "no_attention"): (19.56, 0.6709, 0.2179, 0.3124),
    ("all", "no_time"): (19.64, 0.6656, 0.2271, 0.2910),
    ("all", "no_init"): (20.22, 0.6841, 0.2018, 0.3747),
}
"""(part of TOP-Bench, method) -> PSNR, SSIM, LPIPS-Alex and Direction that InstructBrush published.

512 px, ten training pairs; one pair for the one-shot methods.
"""

VISII_PAPER: Mapping[tuple[str, str], tuple[float, ...]] = {
    ("all", "words"): (0.824, 0.196, 0.301),
    ("all", "caption"): (0.866, 0.090, 0.199),
    ("all", "visii_mse_words"): (0.841, 0.120, 0.247),
    ("all", "visii_mse"): (0.845, 0.115, 0.254),
    ("all", "visii_words"): (0.838, 0.131, 0.231),
    ("all", "visii_1"): (0.823, 0.126, 0.299),
    ("all", "visii_2"): (0.791, 0.141, 0.292),
    ("all", "visii_3"): (0.780, 0.148, 0.283),
    ("all", "visii_4"): (0.798, 0.148, 0.280),
    ("all", "visii_mse_words_fixed_noise"): (0.854, 0.105, 0.223),
    ("all", "visii_mse_fixed_noise"): (0.861, 0.110, 0.225),
    ("all", "visii_words_fixed_noise"): (0.852, 0.102, 0.236),
    ("all", "visii_1_fixed_noise"): (0.847, 0.113, 0.251),
    ("all", "visii_2_fixed_noise"): (0.826, 0.117, 0.253),
    ("all", "visii_3_fixed_noise"): (0.805, 0.132, 0.256),
    ("all", "visii_4_fixed_noise"): (0.812, 0.133, 0.260),
}
"""("all", method) -> Image, Directional and Visual CLIP similarity of Visii's Table 1.

100 directions of Clean-InstructPix2Pix, ViT-L/14.
"""
