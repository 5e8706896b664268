"""PyTorch SimA model: a vision transformer without softmax (arXiv 2206.08898), after UCDvision/sima's `sima.py`."""

import math
from collections.abc import Callable

import torch
from torch import nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.backbone_utils import BackboneMixin
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BackboneOutput, BaseModelOutputWithPooling, ImageClassifierOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.utils.generic import can_return_tuple, maybe_autocast, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_sima import SimAConfig
from .embeddings_sima import SimAEmbeddings, SimAFeaturePyramid


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float32 for half precision, in which sums over tokens overflow or lose everything; the dtype itself otherwise."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def token_norm(x: torch.Tensor, eps: float) -> torch.Tensor:
    """`(B,H,D,1)`: L1 norm over the tokens of `(B,H,N,D)`, at least `eps`; infinity for a channel that is all zero."""
    norm = x.transpose(1, 2).abs().sum(dim=1).unsqueeze(-1)
    return norm.clamp_min(eps).masked_fill(norm == 0, math.inf)


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    gain: str = "none",
    output_attentions: bool = False,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """SimA: `(q / |q|_1) (k / |k|_1)^T v`, norms over the tokens, folded into the D x D matrix between q and the rest.

    query, key and value are `(B,H,N,D)`; the output is `(B,N,H,D)`, the map `(B,H,N,N)` if asked for. ValueError for a mask.
    """
    if attention_mask is not None:
        raise ValueError("The SimA model's own attention takes no mask; sima_hf.sima_attention does.")
    dtype, wide = query.dtype, accumulation_dtype(query.dtype)
    with maybe_autocast(query.device.type, enabled=False):
        query, key, value = query.to(wide), key.to(wide), value.to(wide)
        query_norm, key_norm = token_norm(query, 1e-12), token_norm(key, 1e-12)
        if gain == "tokens":
            query_norm = query_norm / key.shape[-2]
        attentions = None
        if output_attentions:
            attentions = (query / query_norm.transpose(-2, -1) / key_norm.transpose(-2, -1)) @ key.transpose(-2, -1)
        if output_attentions and torch.is_grad_enabled():
            output = attentions @ value  # so that the gradient of what follows reaches the map
        else:
            output = query @ (key.transpose(-2, -1) @ value / key_norm / query_norm)
    return output.transpose(1, 2).contiguous().to(dtype), attentions


def class_attention_forward(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, gain: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """SimA for the class token alone: norms over all N tokens, but only the first row of the map.

    query, key and value are `(B,H,N,D)`; the output is `(B,1,H,D)`, the map `(B,H,1,N)`.
    """
    dtype, wide = query.dtype, accumulation_dtype(query.dtype)
    with maybe_autocast(query.device.type, enabled=False):
        query, key, value = query.to(wide), key.to(wide), value.to(wide)
        query_norm, key_norm = token_norm(query, 1e-6), token_norm(key, 1e-6)
        if gain == "tokens":
            query_norm = query_norm / key.shape[-2]
        attentions = (query[:, :, :1] / query_norm.transpose(-2, -1) / key_norm.transpose(-2, -1)) @ key.transpose(
            -2, -1
        )
        output = attentions @ value
    return output.transpose(1, 2).contiguous().to(dtype), attentions


def check_attention_is_sima(name: str | None, owner: str) -> str:
    """The name of an attention function, "eager" for None; ValueError for one that is not SimA.

    Checked when a model is made or switched, and again at every call, for a config can be written to at any time.
    """
    if name in (None, "eager"):
        return "eager"
    if not name.startswith("sima"):
        raise ValueError(
            f"{owner} computes SimA attention, which `attn_implementation={name!r}` does not. Leave it out, or choose "
            "'eager' or one that sima_hf registers, such as 'sima'."
        )
    return name


class SimAAttention(nn.Module):
    """Multi-head attention without softmax over `(B,N,hidden_size)`."""

    def __init__(self, config: SimAConfig):
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.is_causal = False
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=config.qkv_bias)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=config.qkv_bias)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=config.qkv_bias)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def project(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """query, key and value, each `(B,H,N,D)`, strided views of `(B,N,H,D)`."""
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        projections = (self.q_proj, self.k_proj, self.v_proj)
        return tuple(projection(hidden_states).view(shape).transpose(1, 2) for projection in projections)

    def forward(self, hidden_states: torch.Tensor, **kwargs) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`(B,N,hidden_size)` to the same, and the signed map `(B,H,N,N)` if asked for."""
        query, key, value = self.project(hidden_states)
        implementation = check_attention_is_sima(self.config._attn_implementation, type(self).__name__)
        attention_interface: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
        kwargs.setdefault("output_attentions", self.config.output_attentions)
        output, attentions = attention_interface(
            self, query, key, value, None, gain=self.config.attention_gain, **kwargs
        )
        output = output.reshape(hidden_states.shape).contiguous()
        return self.dropout(self.o_proj(output)), attentions


class SimAClassAttention(SimAAttention):
    """The class token, first of `(B,1+N,hidden_size)`, reads all tokens; the output is `(B,1,hidden_size)`."""

    def forward(self, hidden_states: torch.Tensor, **kwargs) -> tuple[torch.Tensor, torch.Tensor]:
        """The class token's output, and its map `(B,H,1,1+N)`."""
        output, attentions = class_attention_forward(*self.project(hidden_states), self.config.attention_gain)
        return self.dropout(self.o_proj(output.flatten(2))), attentions


class SimALocalPatchInteraction(nn.Module):
    """Two depthwise 3x3 convolutions over the grid of patches, with an activation and a batch norm between them."""

    def __init__(self, config: SimAConfig):
        super().__init__()
        channels = config.hidden_size
        self.convolution1 = nn.Conv2d(channels, channels, kernel_size=3, padding=1, groups=channels)
        self.activation = ACT2FN[config.hidden_act]
        self.norm = nn.BatchNorm2d(channels)
        self.convolution2 = nn.Conv2d(channels, channels, kernel_size=3, padding=1, groups=channels)

    def forward(self, hidden_states: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """`(B,N,hidden_size)` to the same; `grid` is (h, w) of the N patches."""
        feature_map = hidden_states.transpose(1, 2).unflatten(-1, grid)
        feature_map = self.activation(self.convolution1(feature_map))
        feature_map = self.convolution2(self.normalize(feature_map))
        return feature_map.flatten(2).transpose(1, 2)

    def normalize(self, feature_map: torch.Tensor) -> torch.Tensor:
        """The batch norm of `(B,C,h,w)`; its running statistics stay while a checkpointed block is computed again."""
        recomputing = not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1
        if not recomputing:
            return self.norm(feature_map)
        kept = [buffer.clone() for buffer in self.norm.buffers()]
        feature_map = self.norm(feature_map)
        for buffer, value in zip(self.norm.buffers(), kept, strict=True):
            buffer.data.copy_(value)  # .data: autograd has saved these buffers and would take them for modified
        return feature_map


class SimAMLP(nn.Module):
    """Two linear layers with an activation between them, `(..., hidden_size)` to the same."""

    def __init__(self, config: SimAConfig):
        super().__init__()
        inner_size = int(config.hidden_size * config.mlp_ratio)
        self.fc1 = nn.Linear(config.hidden_size, inner_size)
        self.activation_fn = ACT2FN[config.hidden_act]
        self.fc2 = nn.Linear(inner_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Both layers, with dropout after each."""
        hidden_states = self.dropout(self.activation_fn(self.fc1(hidden_states)))
        return self.dropout(self.fc2(hidden_states))


class SimADropPath(nn.Module):
    """Stochastic depth on `(B, ...)`: in training, drops a residual branch per sample and scales up what stays."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The branch, with some of its samples zero."""
        if self.rate == 0 or not self.training:
            return hidden_states
        keep = 1 - self.rate
        mask = hidden_states.new_empty(hidden_states.shape[0], *[1] * (hidden_states.dim() - 1)).bernoulli_(keep)
        return hidden_states * (mask / keep)

    def extra_repr(self) -> str:
        """The rate, for `print(model)`."""
        return f"rate={self.rate}"


class SimALayer(GradientCheckpointingLayer):
    """Attention, local patch interaction and MLP, each pre-normed, scaled and added to the stream `(B,N,hidden_size)`."""

    def __init__(self, config: SimAConfig):
        super().__init__()
        self.layernorm_attention = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = SimAAttention(config)
        self.layer_scale_attention = nn.Parameter(torch.ones(config.hidden_size))
        self.layernorm_interaction = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.interaction = SimALocalPatchInteraction(config)
        self.layer_scale_interaction = nn.Parameter(torch.ones(config.hidden_size))
        self.layernorm_mlp = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = SimAMLP(config)
        self.layer_scale_mlp = nn.Parameter(torch.ones(config.hidden_size))
        self.drop_path = SimADropPath(config.drop_path_rate)

    def forward(self, hidden_states: torch.Tensor, grid: tuple[int, int], **kwargs) -> torch.Tensor:
        """The stream after the block; `grid` is (h, w) of the N patches."""
        output, _ = self.attention(self.layernorm_attention(hidden_states), **kwargs)
        hidden_states = hidden_states + self.drop_path(self.layer_scale_attention * output)
        output = self.interaction(self.layernorm_interaction(hidden_states), grid)
        hidden_states = hidden_states + self.drop_path(self.layer_scale_interaction * output)
        output = self.mlp(self.layernorm_mlp(hidden_states))
        return hidden_states + self.drop_path(self.layer_scale_mlp * output)


class SimAClassAttentionLayer(GradientCheckpointingLayer):
    """Class attention and MLP over `(B,1+N,hidden_size)`, class token first.

    Kept as the original computes it, though it may surprise: the attention branch carries the normed patches along, the
    second norm replaces the stream, and the MLP branch adds the patches to themselves.
    """

    def __init__(self, config: SimAConfig):
        super().__init__()
        self.norm_all_tokens = config.class_attention_norm_all_tokens
        self.layernorm_attention = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = SimAClassAttention(config)
        self.layer_scale_attention = nn.Parameter(torch.ones(config.hidden_size))
        self.layernorm_mlp = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = SimAMLP(config)
        self.layer_scale_mlp = nn.Parameter(torch.ones(config.hidden_size))

    def forward(self, hidden_states: torch.Tensor, **kwargs) -> torch.Tensor:
        """The stream after the block."""
        normed = self.layernorm_attention(hidden_states)
        class_output, _ = self.attention(normed, **kwargs)
        output = torch.cat((class_output, normed[:, 1:]), dim=1)
        hidden_states = hidden_states + self.layer_scale_attention * output
        if self.norm_all_tokens:
            hidden_states = self.layernorm_mlp(hidden_states)
            class_token, patches = hidden_states[:, :1], hidden_states[:, 1:]
        else:
            class_token, patches = self.layernorm_mlp(hidden_states[:, :1]), hidden_states[:, 1:]
        class_token = class_token + self.layer_scale_mlp * self.mlp(class_token)
        return torch.cat((class_token, patches + patches), dim=1)


class SimAPreTrainedModel(PreTrainedModel):
    """Initialization as in the original, and what Transformers needs to know of SimA models."""

    config: SimAConfig
    config_class = SimAConfig
    base_model_prefix = "sima"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["SimAEmbeddings", "SimALayer", "SimAClassAttentionLayer"]  # noqa: RUF012
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {  # noqa: RUF012
        "hidden_states": [SimALayer, SimAClassAttentionLayer],
        "attentions": SimAAttention,
    }

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        """Linear layers and the class token truncated normal, convolutions as torch makes them, the rest neutral."""
        if isinstance(module, nn.Linear):
            init.trunc_normal_(module.weight, std=self.config.initializer_range)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            if module.bias is not None:
                bound = 1 / math.sqrt(module.weight[0].numel())
                init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, (nn.LayerNorm, nn.BatchNorm2d, nn.SyncBatchNorm)):
            init.ones_(module.weight)
            init.zeros_(module.bias)
            if not isinstance(module, nn.LayerNorm):
                init.zeros_(module.running_mean)
                init.ones_(module.running_var)
                init.zeros_(module.num_batches_tracked)
        elif isinstance(module, (SimALayer, SimAClassAttentionLayer)):
            for name, parameter in module.named_parameters(recurse=False):
                if name.startswith("layer_scale"):
                    init.constant_(parameter, self.config.layer_scale_init_value)
        elif isinstance(module, SimAModel):
            init.trunc_normal_(module.class_token, std=self.config.initializer_range)

    def get_correct_attn_implementation(self, requested_attention: str | None, *args, **kwargs) -> str:
        """Refuse every attention that is not SimA, so that nothing can turn the model back into softmax unnoticed.

        Where none is asked for, it is sima_hf's, with fused kernels, if that is installed, else this file's own.
        """
        if requested_attention is None and "sima" in ALL_ATTENTION_FUNCTIONS:
            requested_attention = "sima"
        name = check_attention_is_sima(requested_attention, type(self).__name__)
        return super().get_correct_attn_implementation(name, *args, **kwargs)


class SimAModel(SimAPreTrainedModel):
    """The SimA vision transformer without a head.

    Args:
        config: a `SimAConfig`.
    """

    def __init__(self, config: SimAConfig):
        super().__init__(config)
        self.embeddings = SimAEmbeddings(config)
        self.layers = nn.ModuleList(SimALayer(config) for _ in range(config.num_hidden_layers))
        self.class_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.class_attention_layers = nn.ModuleList(
            SimAClassAttentionLayer(config) for _ in range(config.num_class_attention_layers)
        )
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The stem, which makes patch tokens from pixels; FSDP shares it out by itself."""
        return self.embeddings.patch_embeddings

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, pixel_values: torch.Tensor, **kwargs) -> BaseModelOutputWithPooling:
        r"""
        Args:
            pixel_values (`torch.Tensor` of shape `(batch_size, num_channels, height, width)`):
                Normalized pixels, of any height and width.
            output_hidden_states (`bool`, *optional*):
                Return the embeddings and the output of every block: `(batch_size, N, hidden_size)` up to the last SimA
                block, `(batch_size, 1 + N, hidden_size)` after the class attention blocks.
            output_attentions (`bool`, *optional*):
                Return the signed maps: `(batch_size, heads, N, N)` of every SimA block, made for this purpose only, and
                `(batch_size, heads, 1, 1 + N)` of every class attention block.

        Returns:
            `last_hidden_state` `(batch_size, 1 + N, hidden_size)`, class token first, after the final norm;
            `pooler_output` `(batch_size, hidden_size)`, its class token.

        Raises:
            ValueError: `pixel_values` is not four-dimensional, or has another number of channels than the model.
        """
        hidden_states, grid = self.embeddings(pixel_values)
        for layer in self.layers:
            hidden_states = layer(hidden_states, grid, **kwargs)
        class_token = self.class_token.expand(hidden_states.shape[0], -1, -1)
        hidden_states = torch.cat((class_token, hidden_states), dim=1)
        for layer in self.class_attention_layers:
            hidden_states = layer(hidden_states, **kwargs)
        hidden_states = self.layernorm(hidden_states)
        return BaseModelOutputWithPooling(last_hidden_state=hidden_states, pooler_output=hidden_states[:, 0])


class SimAForImageClassification(SimAPreTrainedModel):
    """SimA with a linear classifier on the class token.

    Args:
        config: a `SimAConfig`; `num_labels` says for how many classes, 0 for none.
    """

    def __init__(self, config: SimAConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.sima = SimAModel(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels) if config.num_labels > 0 else nn.Identity()
        self.post_init()

    @can_return_tuple
    def forward(
        self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None, **kwargs
    ) -> ImageClassifierOutput:
        r"""
        Args:
            pixel_values (`torch.Tensor` of shape `(batch_size, num_channels, height, width)`):
                Normalized pixels, of any height and width.
            labels (`torch.Tensor` of shape `(batch_size,)`, *optional*):
                Class indices; then `loss` is their cross-entropy (`config.problem_type` chooses another).

        Returns:
            `logits` `(batch_size, num_labels)`; `loss`, `hidden_states` and `attentions` as asked for.
        """
        outputs = self.sima(pixel_values, **kwargs)
        logits = self.classifier(outputs.pooler_output)
        loss = None if labels is None else self.loss_function(labels, logits, self.config, **kwargs)
        return ImageClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


class SimABackbone(BackboneMixin, SimAPreTrainedModel):
    """Feature maps `(batch_size, hidden_size, h, w)` of chosen SimA blocks, at the resolution of the patches or as a pyramid.

    Args:
        config: a `SimAConfig`; `out_features` or `out_indices` choose among "stem", "stage1", ...; `pyramid_strides` resizes.
    """

    _keys_to_ignore_on_load_unexpected = [r"^(sima\.)?(class_|layernorm\.)", r"^classifier\."]  # noqa: RUF012

    def __init__(self, config: SimAConfig):
        super().__init__(config)
        self.num_features = [config.hidden_size] * (config.num_hidden_layers + 1)
        self.embeddings = SimAEmbeddings(config)
        self.layers = nn.ModuleList(SimALayer(config) for _ in range(config.num_hidden_layers))
        self.feature_pyramid = SimAFeaturePyramid(config)
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, pixel_values: torch.Tensor, **kwargs) -> BackboneOutput:
        r"""
        Args:
            pixel_values (`torch.Tensor` of shape `(batch_size, num_channels, height, width)`):
                Normalized pixels, of any height and width.

        Returns:
            `feature_maps`, one `(batch_size, hidden_size, h, w)` for each of `config.out_features`.
        """
        hidden_states, grid = self.embeddings(pixel_values)
        feature_maps = ()
        for index, stage in enumerate(self.stage_names):
            if index > 0:
                hidden_states = self.layers[index - 1](hidden_states, grid, **kwargs)
            if stage in self.out_features:
                feature_maps += (hidden_states.transpose(1, 2).unflatten(-1, grid).contiguous(),)
        return BackboneOutput(feature_maps=self.feature_pyramid(feature_maps))


__all__ = ["SimABackbone", "SimAForImageClassification", "SimAModel", "SimAPreTrainedModel"]
