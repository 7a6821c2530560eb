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
}
