"""Scores that the authors of VVO published, to stand beside ours."""

SOURCE = (
    "result tables of VVO's and MSF's authors, first version (masks of 2024), means over three seeds, in per cent. "
    "Their ARI overflows 64-bit integers on videos and at 384 pixels: compare it at 256 pixels on images only."
)

OF_SPOT = (
    "spot_r: result table of SmoothSA's authors, read from an image, of SPOT in their framework, in per cent. It reads "
    "a backbone with register tokens (registers=True here), and these are very likely first stages: their configs have "
    "a second one for COCO alone."
)

# config -> ARI, ARI_fg, mBO, mIoU
SCORES = {
    "slate_r_vqvae-clevrtex": (17.4, 87.4, 44.5, 43.3),
    "slate_r_vqvae-coco": (17.5, 28.8, 26.8, 25.4),
    "slate_r_vqvae-voc": (18.6, 26.2, 37.2, 36.1),
    "vqdino_tfd_r-clevrtex": (55.4, 85.9, 54.4, 53.6),
    "vqdino_tfd_r-coco": (21.1, 31.5, 29.6, 28.2),
    "vqdino_tfd_r-voc": (22.7, 26.6, 39.8, 38.9),
    "steve_c_vqvae-movi_d": (33.7, 66.2, 22.6, 20.9),
    "vqdino_tfdt_c-movi_d": (37.2, 72.7, 25.7, 24.3),
    "dinosaur_r-clevrtex": (50.7, 89.4, 53.3, 52.8),
    "dinosaur_r-coco": (18.2, 37.0, 28.3, 26.9),
    "dinosaur_r-voc": (21.5, 36.2, 40.6, 39.7),
    "vqdino_mlp_r-clevrtex": (66.0, 88.7, 57.0, 56.6),
    "vqdino_mlp_r-coco": (19.2, 35.9, 28.7, 27.4),
    "vqdino_mlp_r-voc": (21.7, 35.4, 41.0, 40.1),
    "slotdiffusion_r_vqvae-clevrtex": (66.1, 82.7, 54.3, 53.4),
    "slotdiffusion_r_vqvae-coco": (17.7, 29.0, 27.0, 25.6),
    "slotdiffusion_r_vqvae-voc": (17.0, 21.7, 35.2, 34.0),
    "vqdino_dfz_r-clevrtex": (72.2, 81.9, 57.6, 56.8),
    "vqdino_dfz_r-coco": (18.3, 28.7, 27.2, 25.8),
    "vqdino_dfz_r-voc": (19.1, 24.2, 36.9, 35.9),
    "slate_r_vqvae-coco-gdr": (18.0, 29.2, 27.4, 26.0),
    "slate_r_vqvae-coco-msf": (18.0, 29.0, 27.4, 26.1),
    "slotdiffusion_r_vqvae-coco-gdr": (17.9, 29.0, 27.2, 25.8),
    "slotdiffusion_r_vqvae-coco-msf": (16.9, 28.7, 26.6, 25.2),
    "slate_r_vqvae-coco-r384": (41.4, 34.0, 27.4, 25.9),
    "vqdino_tfd_r-coco-r384": (44.1, 37.5, 29.6, 28.0),
    "dinosaur_r-coco-r384": (45.0, 42.2, 29.9, 28.5),
    "vqdino_mlp_r-coco-r384": (44.6, 42.6, 29.8, 28.6),
    "slotdiffusion_r_vqvae-coco-r384": (41.6, 34.5, 27.7, 26.2),
    "vqdino_dfz_r-coco-r384": (43.4, 34.2, 28.3, 26.9),
    "spot_r-clevrtex": (25.6, 77.1, 48.2, 46.3),
    "spot_r-coco": (23.7, 40.4, 30.9, 29.3),
    "spot_r-voc": (24.5, 31.0, 40.1, 38.6),
}


def source(config: str) -> str:
    """Return where the published scores of a config are from."""
    return OF_SPOT if config.startswith("spot_r-") else SOURCE
