"""Settings of the action interfaces (block `prior` of a method)."""

from pydantic import Field

from dex_rl_nodes.config import Model


class PriorSettings(Model):
    """How an action interface is fitted; defaults: LAMP Table B.1."""

    latent_dim: int = Field(2, ge=1, description='latent dimension of the motion prior, components of PCA')
    hidden: int = Field(256, ge=8, description='width of the hidden layers')
    layers: int = Field(2, ge=1, description='hidden layers of encoder and decoder')
    steps: int = Field(20_000, ge=1, description='optimiser steps')
    batch_size: int = Field(256, ge=1, description='windows per step')
    learning_rate: float = Field(2e-3, gt=0, description='AdamW learning rate after warm-up')
    weight_decay: float = Field(1e-4, ge=0, description='AdamW weight decay')
    warmup_steps: int = Field(500, ge=1, description='linear learning-rate warm-up (steps), then cosine to 0')
    kl_weight: float = Field(1e-3, ge=0, description='weight of the KL term (Eq. 3), squared error summed over joints')
    kl_warmup_steps: int = Field(2_000, ge=1, description='linear warm-up of the KL weight (steps)')
    history_noise: float = Field(0.01, ge=0, description='noise on the history while training (std, normalised travel)')
    gradient_clip: float = Field(1.0, gt=0, description='largest gradient norm')
    test_fraction: float = Field(
        0.1, gt=0, lt=1, description='share of the episodes held out; policy and encoder hold out a tenth'
    )
    arm_residual: float = Field(0.2, gt=0, le=1, description='scale of the arm residual (unit command)')
    hand_residual: float = Field(0.5, gt=0, description='scale of the hand residual, times the RMS of each coordinate')
    hand_residual_floor: float = Field(0.2, ge=0, description='smallest RMS used for that scale')
    raw_residual: float = Field(
        0.2, gt=0, le=1, description='scale of the hand residual of raw commands (unit command)'
    )
    residual_displacement: float = Field(
        0.2, gt=0, description='largest mean displacement of the hand by a full residual (normalised travel, L2)'
    )
    vq_steps: int = Field(4_000, ge=1, description='optimiser steps of the residual VQ-VAE')
    vq_learning_rate: float = Field(1e-3, gt=0, description='Adam learning rate of the residual VQ-VAE')
    vq_latent_dim: int = Field(32, ge=1, description='dimension of the codes')
    vq_codes: int = Field(4, ge=2, description='codes per quantiser')
    vq_commitment: float = Field(1.0, ge=0, description='weight of the commitment loss')
    vq_decay: float = Field(0.99, gt=0, lt=1, description='decay of the running means of the codes')
    vq_dead_count: float = Field(2.0, ge=0, description='codes used less than this often (running mean) are replaced')
