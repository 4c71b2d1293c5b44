"""The work in a program, from a text by hand and from programs that XLA compiles for a CPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from onet_jax.training.hlo import Collective, read_work, size_of

NHWC = 'NHWC', 'HWIO', 'NHWC'
HLO = """HloModule jit_step, is_scheduled=true

%fused_computation (param_0.1: f32[7,8,128], param_1.1: s32[]) -> f32[1,8,128] {
  %param_0.1 = f32[7,8,128]{2,1,0:T(8,128)} parameter(0)
  %param_1.1 = s32[]{:T(128)} parameter(1)
  ROOT %dynamic-slice.1 = f32[1,8,128]{2,1,0:T(8,128)} dynamic-slice(%param_0.1, %param_1.1), dynamic_slice_sizes={1,8,128}
}

%body (p: (s32[], f32[7,8,128])) -> (s32[], f32[7,8,128]) {
  %p = (s32[]{:T(128)}, f32[7,8,128]{2,1,0:T(8,128)}) parameter(0)
  %i = s32[]{:T(128)S(6)} get-tuple-element(%p), index=0
  %x = f32[7,8,128]{2,1,0:T(8,128)} get-tuple-element(%p), index=1
  %part = f32[1,8,128]{2,1,0:T(8,128)S(1)} fusion(%x, %i), kind=kLoop, calls=%fused_computation, backend_config={"window_config":{"estimated_cycles":"100"}}
  %all-gather = u32[16]{0} all-gather(u32[2]{0} %k), dimensions={0}
  ROOT %next = (s32[]{:T(128)}, f32[7,8,128]{2,1,0:T(8,128)}) tuple(%i, %x)
}

%condition (q: (s32[], f32[7,8,128])) -> pred[] {
  %q = (s32[]{:T(128)}, f32[7,8,128]{2,1,0:T(8,128)}) parameter(0)
  %n = s32[]{:T(128)} constant(7)
  %j = s32[]{:T(128)} get-tuple-element(%q), index=0
  ROOT %less = pred[]{:T(512)} compare(%j, %n), direction=LT
}

ENTRY %main (a: f32[8,512,256], b: f32[8,256,64]) -> f32[8,512,64] {
  %a = f32[8,512,256]{2,1,0:T(8,128)} parameter(0)
  %b = f32[8,256,64]{2,1,0:T(8,128)} parameter(1)
  %copy-start = (f32[8,256,64]{2,1,0:T(8,128)S(1)}, f32[8,256,64]{2,1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%b)
  %copy-done = f32[8,256,64]{2,1,0:T(8,128)S(1)} copy-done(%copy-start)
  %product = f32[8,512,64]{2,1,0:T(8,128)S(1)} convolution(%a, %copy-done), window={size=8 stride=7 lhs_dilate=8}, dim_labels=0bf_0io->0bf, backend_config={"estimated_cycles":"5000"}
  %all-reduce-start = (f32[8]{0}, bf16[2,3]{1,0}, f32[]) all-reduce-start(%x, %y, %z), to_apply=%add
  %all-reduce-done = (f32[8]{0}, bf16[2,3]{1,0}, f32[]) all-reduce-done(%all-reduce-start)
  %tuple = (s32[]{:T(128)}, f32[7,8,128]{2,1,0:T(8,128)}) tuple(%zero, %w)
  %while = (s32[]{:T(128)}, f32[7,8,128]{2,1,0:T(8,128)}) while(%tuple), condition=%condition, body=%body
  ROOT %all-reduce = f32[8,512,64]{2,1,0:T(8,128)S(1)} all-reduce(%product), channel_id=1, to_apply=%add
}
"""  # noqa: E501  # as XLA prints it


def test_work_is_read_with_its_loops_and_without_what_stays_beside_the_cores():
    work = read_work(HLO)
    assert work.collectives == (
        Collective('all-reduce', 8 * 4 + 6 * 2 + 4, 1),
        Collective('all-reduce', 8 * 512 * 64 * 4, 1),
        Collective('all-gather', 16 * 4, 7),
    )
    assert work.exchanged()['all-gather'] == (7, 7 * 16 * 4)
    assert work.cycles == 5000 + 7 * 100
    assert work.open_loops == 0
    assert work.flops == 8 * 2 * 512 * 64 * 256, 'a product for each row of the batch, which is an axis with gaps'
    # The operands of the product, read once, and the result of the first all-reduce; that of the second one stays in VMEM.
    arrays = 8 * 512 * 256 * 4 + 8 * 256 * 64 * 4 + (8 * 4 + 6 * 2 + 4)
    assert work.traffic == arrays + 7 * (8 * 128 * 4 + 16 * 4)


def test_a_loop_that_does_not_count_is_counted_once():
    work = read_work(HLO.replace('direction=LT', 'direction=NE'))
    assert work.open_loops == 1
    assert work.cycles == 5000 + 100


def test_arrays_in_memory_have_whole_tiles():
    assert size_of('f32[5,3]{1,0:T(8,128)}') == 5 * 3 * 4
    assert size_of('f32[5,3]{1,0:T(8,128)}', in_memory=True) == 8 * 128 * 4
    assert size_of('f32[5,3]{0,1:T(4,128)}', in_memory=True) == 4 * 128 * 4
    assert size_of('(bf16[300]{0:T(256)}, f32[9]{0:T(128)S(1)})', in_memory=True) == 512 * 2


@pytest.mark.parametrize(
    'function, shapes, expected',
    [
        (lambda x, y: x @ y, [(6, 5), (5, 4)], 2 * 6 * 5 * 4),
        (
            lambda x, y: jax.lax.map(lambda row: row[None] @ y, x),
            [(6, 5), (5, 4)],
            2 * 6 * 5 * 4,
        ),
        (
            lambda x, y: jax.lax.conv_general_dilated(x, y, (2, 2), ((1, 1), (1, 1)), dimension_numbers=NHWC),
            [(2, 8, 8, 3), (3, 3, 3, 5)],
            None,
        ),
    ],
)  # fmt: skip
def test_products_are_counted_as_xla_counts_them(function, shapes, expected):
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    compiled = jax.jit(function).lower(*arrays).compile()
    if expected is None:  # 4 x 4 pixels, of which those at two edges see padding
        taps = np.array([2, 3, 3, 3])
        expected = 2 * 2 * 5 * 3 * np.outer(taps, taps).sum()
    assert read_work(compiled.as_text()).flops == expected
