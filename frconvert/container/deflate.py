"""Raw DEFLATE, of indices with a dictionary of what names are made of.

Law: `inflate(deflate(data), len(data)) == data`; `inflate` of anything else raises DamagedError.
"""

import zlib

from frconvert.errors import DamagedError

# Names of common architectures, each ended as in the index, the commonest last: with them in front a small
# model's names take half the bytes. Part of the format: never change it.
NAMES = b"".join(
    name + b"\xff"
    for name in b"""
    tokenizer.json config.json keras/ hdf5/skeleton.json safetensors/metadata.json onnx/skeleton.onnx
    pytorch/layout.json frconvert.source model.safetensors frconvert.version frconvert.source model.pt
    frconvert.version 0.1.0 frconvert.options --max-error --importance --keep --bits --size --snr
    --lossless frconvert.sha256 frconvert.size
    /kernel:0 /bias:0 batch_normalization_1/gamma:0 beta:0 moving_mean:0 moving_variance:0
    layers/conv2d_1/vars/0 layers/dense_1/vars/1 kernel
    lstm.weight_ih_l0 lstm.weight_hh_l0 lstm.bias_ih_l0 lstm.bias_hh_l0_reverse
    embeddings.position_ids embeddings.word_embeddings.weight embeddings.position_embeddings.weight
    embeddings.token_type_embeddings.weight embeddings.LayerNorm.bias
    encoder.layer.0.attention.self.query.weight encoder.layer.1.attention.self.key.bias
    encoder.layer.0.attention.self.value.weight encoder.layer.1.attention.output.dense.bias
    encoder.layer.0.attention.output.LayerNorm.weight encoder.layer.1.intermediate.dense.bias
    encoder.layer.0.output.dense.weight pooler.dense.weight
    transformer.wte.weight transformer.h.0.attn.c_attn.bias transformer.h.0.mlp.c_fc.weight mlp.c_proj.bias
    ln_1.weight ln_2.bias ln_f.bias lm_head.weight
    model.layers.0.self_attn.q_proj.weight model.layers.0.self_attn.k_proj.weight self_attn.v_proj.weight
    self_attn.o_proj.weight self_attn.out_proj.bias mlp.gate_proj.weight mlp.up_proj.weight
    mlp.down_proj.weight model.layers.0.input_layernorm.weight post_attention_layernorm.weight
    model.norm.weight module.backbone.stages.0.blocks.0.norm1.weight decoder.blocks.1.attn.qkv.bias
    blocks.1.mlp.fc1.weight blocks.0.mlp.fc2.bias head.weight features.0.0.weight
    features.1.conv.0.1.running_mean classifier.1.weight classifier.6.bias fc1.bias
    layer1.0.conv1.weight layer1.0.bn1.weight layer1.0.bn1.bias layer1.0.bn1.running_mean
    layer1.0.bn1.running_var layer1.0.bn1.num_batches_tracked layer2.0.downsample.0.weight
    net.0.conv.weight inc.double_conv.0.weight down1.maxpool_conv.1.double_conv.0.weight
    up1.conv.double_conv.3.weight up1.up.weight outc.conv.weight fc2.weight fc2.bias
    conv1.weight conv1.bias conv2.weight fc.weight fc.bias
    """.split()
)


def deflate(data: bytes, dictionary: bytes = b"") -> bytes:
    """Raw DEFLATE at the highest effort."""
    method, memory, strategy = zlib.DEFLATED, zlib.DEF_MEM_LEVEL, zlib.Z_DEFAULT_STRATEGY
    compressor = zlib.compressobj(9, method, -15, memory, strategy, dictionary)
    return compressor.compress(data) + compressor.flush()


def inflate(data: bytes | memoryview, limit: int, dictionary: bytes = b"") -> bytes:
    """Inverse of `deflate`, of at most `limit` bytes.

    Raises:
        DamagedError: not one complete DEFLATE stream, or a longer one.
    """
    decompressor = zlib.decompressobj(-15, dictionary)
    try:
        plain = decompressor.decompress(data, limit + 1)
    except zlib.error as error:
        raise DamagedError(f"compressed text is damaged ({error})") from error
    if len(plain) > limit or not decompressor.eof or decompressor.unused_data:
        raise DamagedError("compressed text is longer or shorter than it claims")
    return plain
