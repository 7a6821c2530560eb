"""What the catalog must hold, typed from the published tables by hand and apart from the catalog's files."""

from __future__ import annotations

# dense peaks in TFLOP/s: data sheets that print peaks with sparsity are halved here, by hand
PEAKS = {
    # 108 SMs x 1.41 GHz x {2048, 1024, 4096, 128, 128}
    "a100-sxm-80gb": {"bf16": 312, "fp16": 312, "tf32": 156, "int8": 624, "fp32": 19.5, "fp64": 19.5},
    # 1979 / 2, 989 / 2, 3958 / 2; 67 of CUDA cores and of fp64 tensor cores
    "h100-sxm": {
        "bf16": 989.4,
        "fp16": 989.4,
        "tf32": 494.7,
        "fp8": 1979,
        "int8": 1979,
        "fp32": 67,
        "fp64": 67,
    },
    "h200-sxm": {"bf16": 989.4, "fp8": 1979, "int8": 1979},
    "h800-sxm": {"bf16": 989.4, "fp8": 1979, "fp64": 1.0},
    # HGX B200, 8 GPUs: 36 PF sparse bf16 -> 36 / 2 / 8 = 2.25; 72 / 2 / 8 = 4.5; fp4 72 dense / 8 = 9
    "b200-sxm": {"bf16": 2250, "tf32": 1125, "fp8": 4500, "int8": 4500, "fp4": 9000, "fp32": 75, "fp64": 37},
    "mi300x": {"bf16": 1307.4, "fp8": 2614.9, "int8": 2614.9, "tf32": 653.7, "fp32": 163.4, "fp64": 163.4},
    "tpu-v5p": {"bf16": 459, "int8": 918},
    # 56 cores x 2.0 GHz x 1024 FLOP = 114.7
    "xeon-8480": {"bf16": 114.7, "int8": 229.4, "fp32": 7.17},
    # 80 SMs x 1.38 GHz x {1024, 128, 64}; the data sheet rounds to 112, 14, 7
    "v100-pcie-32gb": {"fp16": 113.0, "fp32": 14.13, "fp64": 7.07},
    # 40 SMs x 1.59 GHz x {1024, 2048, 128}
    "t4": {"fp16": 65, "int8": 130, "fp32": 8.14},
    # 20 SMs x 1.063 GHz x {256, 1024}; no 16-bit units
    "p4": {"fp32": 5.5, "int8": 22},
    "a100-pcie-40gb": {"bf16": 312, "fp16": 312, "tf32": 156, "int8": 624, "fp32": 19.5, "fp64": 19.5},
    "a100-pcie-80gb": {"bf16": 312, "fp16": 312, "tf32": 156, "int8": 624, "fp32": 19.5, "fp64": 19.5},
    # 120 TF of fp32 are 256 FLOP per SM and clock, bf16 with fp32 accumulation is four times that
    "rtx-pro-6000": {"fp32": 120, "tf32": 240, "bf16": 480, "fp8": 960, "int8": 960, "fp4": 1920},
    # 197 TOP/s int8; 16 bits half of it; 12.28 TF of the vector engines
    "arc-b60": {"int8": 197, "bf16": 98.3, "fp16": 98.3, "fp32": 12.28},
    "a800-sxm-80gb": {"bf16": 312, "fp16": 312, "tf32": 156, "int8": 624, "fp32": 19.5, "fp64": 19.5},
    # no table of this part is published: the SXM figures are its upper bound
    "h100-sxm-96gb": {"bf16": 989.4, "fp8": 1979, "fp32": 67},
    # 1513 / 2, 756 / 2, 3026 / 2
    "h100-pcie": {
        "bf16": 756.5,
        "fp16": 756.5,
        "tf32": 378,
        "fp8": 1513,
        "int8": 1513,
        "fp32": 51,
        "fp64": 51,
    },
    # 1671 / 2, 835 / 2, 3341 / 2
    "h100-nvl": {"bf16": 835.5, "tf32": 417.5, "fp8": 1670.5, "int8": 1670.5, "fp32": 60, "fp64": 60},
    "gh200": {"bf16": 989.4, "fp8": 1979, "fp32": 67},
    "h20-sxm": {"bf16": 148, "fp8": 296, "fp32": 44, "fp64": 1},
    # per 72 GPUs, sparse: 360, 180, 720, 1440 PF -> / 2 / 72
    "gb200": {"bf16": 2500, "tf32": 1250, "fp8": 5000, "int8": 5000, "fp4": 10000, "fp32": 80, "fp64": 40},
    # fp4 1080 PF dense / 72; int8 24 POP/s sparse / 2 / 72; fp64 100 TF / 72
    "gb300": {"bf16": 2500, "fp8": 5000, "int8": 166.7, "fp4": 15000, "fp32": 80, "fp64": 1.39},
    # per 8 GPUs: 36 PF sparse / 2 / 8, fp4 108 dense / 8, fp64 10 TF / 8
    "b300-sxm": {"bf16": 2250, "fp8": 4500, "int8": 153.5, "fp4": 13500, "fp32": 75, "fp64": 1.25},
    "tpu-v5e": {"bf16": 197, "int8": 393},
    "tpu-v6e": {"bf16": 918, "int8": 1836},
    "tpu7x-core": {"bf16": 2307 / 2, "fp8": 4614 / 2},
}

# capacity [GB], bandwidth [GB/s], power limit [W]
MEMORY_AND_POWER = {
    "a100-sxm-40gb": (40, 1555, 400),
    "a100-sxm-80gb": (80, 2039, 400),
    "h100-sxm": (80, 3350, 700),
    "h200-sxm": (141, 4800, 700),
    "h800-sxm": (80, 3350, 700),
    "b200-sxm": (180, 7700, 1000),
    "mi300x": (192, 5300, 750),
    "tpu-v5p": (95 * 1.073741824, 2765, 320),
    "xeon-8480": (512 * 1.073741824, 8 * 38.4, 350),  # 8 channels x 8 B x 4.8 GT/s
    "a100-pcie-40gb": (40, 1555, 250),
    "a100-pcie-80gb": (80, 1935, 300),
    "v100-pcie-32gb": (32, 900, 250),
    "t4": (16, 320, 70),  # 256 bits x 10 Gbit/s / 8
    "p4": (8, 192, 75),
    "rtx-pro-6000": (96, 1597, 600),
    "arc-b60": (24, 456, 200),  # 192 bits x 19 Gbit/s / 8
    "a800-sxm-80gb": (80, 2039, 400),
    "h100-sxm-96gb": (96, 2400, 500),
    "h100-pcie": (80, 2000, 350),
    "h100-nvl": (94, 3900, 400),
    "gh200": (144, 4900, 900),
    "h20-sxm": (96, 4000, 400),
    "gb200": (186, 8000, 1200),
    "gb300": (279, 8000, 1400),
    "b300-sxm": (270, 7700, 1100),
    "tpu-v5e": (16 * 1.073741824, 819, 140),
    "tpu-v6e": (32 * 1.073741824, 1638, 390),
    "tpu7x-core": (96 * 1.073741824, 3690, 490),
}

# scale-up: links, one-way GB/s of one link, both-way total of one accelerator as data sheets print it
SCALE_UP = {
    "dgx-a100-40gb": (12, 25, 600),
    "dgx-a100-80gb": (12, 25, 600),
    "dgx-h100": (18, 25, 900),
    "dgx-h200": (18, 25, 900),
    "dgx-h800": (8, 25, 400),
    "dgx-b200": (18, 50, 1800),
    "mi300x-8": (7, 64, 896),
    "tpu-v5p": (6, 100, 1200),
    "xeon-2s": (4, 32, 256),
    # PCI Express: 8, 16, 32 GT/s x lanes x 128/130 / 8
    "a100-pcie-40gb-1": (1, 31.5, 63),
    "v100-pcie-1": (1, 15.75, 31.5),
    "t4-1": (1, 15.75, 31.5),
    "p4-1": (1, 15.75, 31.5),
    "rtx-pro-6000-8": (1, 63, 126),
    "arc-b60-8": (1, 31.5, 63),  # 8 lanes of generation 5
    "a100-pcie-80gb-8": (1, 31.5, 63),
    "h100-pcie-8": (1, 63, 126),
    "h100-nvl-8": (1, 63, 126),
    "gh200-1": (1, 63, 126),
    "hgx-a800": (8, 25, 400),
    "hgx-h20": (18, 25, 900),
    "hgx-b300": (18, 50, 1800),
    "grand-teton-h100": (18, 25, 900),
    "gb200-nvl72": (18, 50, 1800),
    "gb300-nvl72": (18, 50, 1800),
    "tpu-v5e": (4, 50, 400),
    "tpu-v6e": (4, 100, 800),
    "tpu7x": (6, 50, 600),  # half of a chip's 1200
}

# NICs per node, Gbit/s of one, accelerators of a node
SCALE_OUT = {
    "dgx-a100-40gb": (8, 200, 8),
    "dgx-a100-80gb": (8, 200, 8),
    "dgx-h100": (8, 400, 8),
    "dgx-h200": (8, 400, 8),
    "dgx-h800": (8, 400, 8),
    "dgx-b200": (8, 400, 8),
    "mi300x-8": (8, 400, 8),
    "tpu-v5p": (1, 200, 4),  # 50 Gbit/s per chip
    "xeon-2s": (1, 200, 2),
    "hgx-a800": (8, 200, 8),
    "hgx-h20": (8, 400, 8),
    "hgx-b300": (8, 800, 8),
    "grand-teton-h100": (8, 400, 8),
    "gb200-nvl72": (72, 400, 72),
    "gb300-nvl72": (72, 800, 72),
    "tpu-v5e": (2, 100, 8),  # 25 Gbit/s per chip
    "tpu-v6e": (4, 200, 8),  # 100 Gbit/s per chip
    "tpu7x": (1, 400, 8),  # 100 Gbit/s per chip of two devices
}
