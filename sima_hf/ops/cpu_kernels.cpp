// SimA attention on CPU, forward and backward, for float32, bfloat16 and float16 inputs; everything is summed in float32.
//
// One head needs k^T v, the token sums a of |q| and b of |k|, and q M with M = diag(gain / (a b)) k^T v. Tokens are taken in pieces
// of PIECE whose sums are added in order, so that results do not depend on the number of threads. Backward, with g the gradient of
// the output and C = k^T v (formulas: ops/fused.py):
//
//     dM = q^T g    dC = diag(s) dM    dq = g M^T - sign(q) cq    dk = v dC^T - sign(k) ck    dv = k dC
//
// ops/cpu.py calls `sima_forward` and `sima_backward` with one array of integers each, laid out as in the structs `Forward` and
// `Backward`.

#ifdef _OPENMP
#include <omp.h>
#else
static int omp_get_thread_num() { return 0; }
#endif

#include "cpu_tiles.h"

#define PIECE 512

struct Shape {
    int64_t batch, heads, queries, keys, width, value_width, threads;
    // 1: multiply by the number of keys seen; 1: `keep` hides queries as well.
    int64_t tokens_gain, keep_queries;
    int64_t keep;  // (batch, keys) bytes, or 0
};

struct Forward {
    Shape shape;
    Tensor query, key, value, out;
    // (batch, heads, width) twice, (batch, heads, width, value_width), (batch, heads); all 0 where nothing is to be kept.
    int64_t query_norm, key_norm, context, gain;
    int64_t workspace;  // see `forward_floats`
};

struct Backward {
    Shape shape;
    Tensor grad, query, key, value, dquery, dkey, dvalue;
    int64_t query_norm, key_norm, context, gain;
    int64_t workspace;  // see `backward_floats`
};

static inline const uint8_t* mask_of(const Shape& s, int64_t b, bool wanted) {
    return s.keep && wanted ? (const uint8_t*)s.keep + b * s.keys : 0;
}

// A look at some tokens as float32 rows: where they lie if they can be used as they are, else copied into `copy`.
struct Rows {
    const float* data;
    int64_t stride;
};

template <int type>
static Rows rows_of(const Tensor& x, int64_t b, int64_t h, int64_t n, int64_t count, int64_t width, const uint8_t* keep, float* copy) {
    if (type == FLOAT32 && !keep && width % LANES == 0)
        return {(const float*)row<type>(x, b, h, n), x.token_stride};
    read_tile<type>(x, b, h, n, count, width, keep, copy, padded(width));
    return {copy, padded(width)};
}

// Rows times matrix, written as tokens of `out`.
template <int type, bool SIGNED>
static void apply(Rows x, int64_t depth, const float* m, const Tensor& out, int64_t b, int64_t h, int64_t n, int64_t count,
                  int64_t width, float* copy, Rows y, const float* coefficients) {
    bool direct = type == FLOAT32 && width % LANES == 0;
    float* target = direct ? (float*)row<type>(out, b, h, n) : copy;
    int64_t stride = direct ? out.token_stride : padded(width);
    multiply<SIGNED>(x.data, x.stride, count, depth, m, padded(width), target, stride, y.data, y.stride, coefficients);
    if (!direct) write_tile<type>(out, b, h, n, count, width, copy, padded(width));
}

// What one piece of tokens adds to a head: sums of |q| and |k|, and k^T v (or q^T g).
struct Sums {
    float *query, *key, *context;
    static int64_t floats(const Shape& s) { return 2 * padded(s.width) + s.width * padded(s.value_width); }
    Sums(float* start, const Shape& s) {
        query = start;
        key = query + padded(s.width);
        context = key + padded(s.width);
    }
};

// c[d, e] = left^T right over the piece; sums of |left| where wanted. Both are copied: their rows are read again and again, and in
// Transformers' layout the distance between them would leave much of the cache unused.
template <int type>
static void gather_piece(const Tensor& left, const Tensor& right, const Shape& s, int64_t b, int64_t h, int64_t start, int64_t stop,
                         const uint8_t* keep, float* c, float* sums, float* copy) {
    int64_t width = padded(s.width), value_width = padded(s.value_width);
    float* left_copy = copy;
    float* right_copy = copy + TILE * width;
    for (int64_t n = start; n < stop; n += TILE) {
        int64_t count = least(TILE, stop - n);
        read_tile<type>(left, b, h, n, count, s.width, keep, left_copy, width);
        read_tile<type>(right, b, h, n, count, s.value_width, keep, right_copy, value_width);
        if (sums) add_absolute(left_copy, width, count, width, sums);
        gather(left_copy, width, s.width, right_copy, value_width, count, c);
    }
}

template <int type>
static void forward_sums(const Forward& f, int64_t b, int64_t h, int64_t piece, Sums sums, float* copy) {
    const Shape& s = f.shape;
    memset(sums.query, 0, 4 * Sums::floats(s));
    int64_t start = piece * PIECE;
    gather_piece<type>(f.key, f.value, s, b, h, start, least(start + PIECE, s.keys), mask_of(s, b, true), sums.context, sums.key, copy);
    const uint8_t* keep = mask_of(s, b, s.keep_queries);
    for (int64_t n = start, stop = least(start + PIECE, s.queries); n < stop; n += TILE) {
        int64_t count = least(TILE, stop - n);
        Rows q = rows_of<type>(f.query, b, h, n, count, s.width, keep, copy);
        add_absolute(q.data, q.stride, count, padded(s.width), sums.query);
    }
}

// gain / (a b) of one channel; a channel that is zero at every token gives nothing.
static inline float scale_of(float a, float b, float gain) {
    const float floor = 1e-12f;
    if (a == 0 || b == 0) return 0;
    return gain / (a < floor ? floor : a) / (b < floor ? floor : b);
}

static float gain_of(const Shape& s, int64_t b) {
    const uint8_t* keep = mask_of(s, b, true);
    if (!s.tokens_gain) return 1;
    if (!keep) return (float)s.keys;
    int64_t seen = 0;
    for (int64_t n = 0; n < s.keys; n++) seen += keep[n] != 0;
    return (float)seen;
}

// Keep what backward needs, then scale the rows of the context: it is M from then on.
static void forward_scale(const Forward& f, int64_t b, int64_t h, Sums sums) {
    const Shape& s = f.shape;
    int64_t head = b * s.heads + h, value_width = padded(s.value_width);
    float gain = gain_of(s, b);
    if (f.context) {
        memcpy((float*)f.query_norm + head * s.width, sums.query, 4 * s.width);
        memcpy((float*)f.key_norm + head * s.width, sums.key, 4 * s.width);
        ((float*)f.gain)[head] = gain;
    }
    for (int64_t d = 0; d < s.width; d++) {
        float* line = sums.context + d * value_width;
        if (f.context) memcpy((float*)f.context + (head * s.width + d) * s.value_width, line, 4 * s.value_width);
        float scale = scale_of(sums.query[d], sums.key[d], gain);
        for (int64_t e = 0; e < value_width; e += LANES) store(line + e, load(line + e) * scale);
    }
}

template <int type>
static void forward_apply(const Forward& f, int64_t b, int64_t h, int64_t start, int64_t stop, const float* m, float* copy) {
    const Shape& s = f.shape;
    const uint8_t* keep = mask_of(s, b, s.keep_queries);
    for (int64_t n = start; n < stop; n += TILE) {
        int64_t count = least(TILE, stop - n);
        Rows q = rows_of<type>(f.query, b, h, n, count, s.width, keep, copy);
        apply<type, false>(q, s.width, m, f.out, b, h, n, count, s.value_width, copy + TILE * padded(s.width), q, 0);
    }
}

// The matrices of backward's second pass, from dM: M^T (value_width, width), dC (width, value_width), dC^T, and the coefficients of
// the signs. Where the floor of a norm is active the norm is a constant and has no gradient.
struct Matrices {
    float *query_signs, *key_signs, *matrix_transposed, *dcontext, *dcontext_transposed;
    static int64_t floats(const Shape& s) {
        return 2 * padded(s.width) + 2 * s.value_width * padded(s.width) + s.width * padded(s.value_width);
    }
    Matrices(float* start, const Shape& s) {
        query_signs = start;
        key_signs = query_signs + padded(s.width);
        matrix_transposed = key_signs + padded(s.width);
        dcontext_transposed = matrix_transposed + s.value_width * padded(s.width);
        dcontext = dcontext_transposed + s.value_width * padded(s.width);
    }
};

static void backward_scale(const Backward& f, int64_t b, int64_t h, const float* dmatrix, Matrices m) {
    const Shape& s = f.shape;
    const float floor = 1e-12f;
    int64_t head = b * s.heads + h, width = padded(s.width), value_width = padded(s.value_width);
    const float* a = (const float*)f.query_norm + head * s.width;
    const float* k = (const float*)f.key_norm + head * s.width;
    const float* context = (const float*)f.context + head * s.width * s.value_width;
    float gain = ((const float*)f.gain)[head];
    memset(m.query_signs, 0, 4 * Matrices::floats(s));
    for (int64_t d = 0; d < s.width; d++) {
        float scale = scale_of(a[d], k[d], gain), product = 0;
        for (int64_t e = 0; e < s.value_width; e++) {
            float own = context[d * s.value_width + e], change = dmatrix[d * value_width + e];
            product += own * change;
            m.matrix_transposed[e * width + d] = own * scale;
            m.dcontext_transposed[e * width + d] = change * scale;
            m.dcontext[d * value_width + e] = change * scale;
        }
        if (a[d] > floor) m.query_signs[d] = product * scale / a[d];
        if (k[d] > floor) m.key_signs[d] = product * scale / k[d];
    }
}

template <int type>
static void backward_apply(const Backward& f, int64_t b, int64_t h, int64_t start, int64_t stop, Matrices m, float* copy) {
    const Shape& s = f.shape;
    int64_t width = padded(s.width), value_width = padded(s.value_width);
    float *narrow = copy, *wide = narrow + TILE * width, *result = wide + TILE * value_width;
    const uint8_t* keep = mask_of(s, b, s.keep_queries);
    for (int64_t n = start, end = least(stop, s.queries); n < end; n += TILE) {
        int64_t count = least(TILE, end - n);
        Rows q = rows_of<type>(f.query, b, h, n, count, s.width, keep, narrow);
        Rows g = rows_of<type>(f.grad, b, h, n, count, s.value_width, keep, wide);
        apply<type, true>(g, s.value_width, m.matrix_transposed, f.dquery, b, h, n, count, s.width, result, q, m.query_signs);
    }
    keep = mask_of(s, b, true);
    for (int64_t n = start, end = least(stop, s.keys); n < end; n += TILE) {
        int64_t count = least(TILE, end - n);
        Rows k = rows_of<type>(f.key, b, h, n, count, s.width, keep, narrow);
        Rows v = rows_of<type>(f.value, b, h, n, count, s.value_width, keep, wide);
        apply<type, true>(v, s.value_width, m.dcontext_transposed, f.dkey, b, h, n, count, s.width, result, k, m.key_signs);
        apply<type, false>(k, s.width, m.dcontext, f.dvalue, b, h, n, count, s.value_width, result, k, 0);
    }
}

// ---------------------------------------------------------------------------------------------------- heads and threads

static int64_t pieces_of(const Shape& s) {
    int64_t tokens = s.queries > s.keys ? s.queries : s.keys;
    return (tokens + PIECE - 1) / PIECE;
}

static int64_t copies_of(const Shape& s) {
    int64_t width = padded(s.width), value_width = padded(s.value_width);
    return TILE * (width + value_width + (width > value_width ? width : value_width));
}

// Floats of one thread: what it copies, and where a head is taken whole, that head's sums (and matrices). Whole cache lines, so that
// threads do not share one.
static int64_t lines(int64_t floats) { return (floats + 15) / 16 * 16; }
static int64_t forward_scratch(const Shape& s) { return lines(copies_of(s)) + lines(Sums::floats(s)); }
static int64_t backward_scratch(const Shape& s) {
    return lines(copies_of(s)) + lines(s.width * padded(s.value_width)) + lines(Matrices::floats(s));
}

// Floats of the workspace: the threads' scratch, then, where tokens are taken in pieces, what the passes hand on.
static int64_t forward_floats(const Shape& s) {
    int64_t handed_on = pieces_of(s) == 1 ? 0 : s.batch * s.heads * pieces_of(s) * Sums::floats(s);
    return s.threads * forward_scratch(s) + handed_on;
}
static int64_t backward_floats(const Shape& s) {
    int64_t each = pieces_of(s) * s.width * padded(s.value_width) + Matrices::floats(s);
    return s.threads * backward_scratch(s) + (pieces_of(s) == 1 ? 0 : s.batch * s.heads * each);
}

// One head at a time where it fits the cache; else all pieces, then all heads, then all pieces again, each in parallel. The same
// sums in the same order either way.
template <int type> static void forward(const Forward& f) {
    const Shape& s = f.shape;
    int64_t heads = s.batch * s.heads, pieces = pieces_of(s), floats = Sums::floats(s);
    float *scratch = (float*)f.workspace, *workspace = scratch + s.threads * forward_scratch(s);
#pragma omp parallel num_threads((int)s.threads) if (s.threads > 1)
    {
        float *copy = scratch + omp_get_thread_num() * forward_scratch(s), *own = copy + lines(copies_of(s));
        if (pieces == 1) {
#pragma omp for schedule(static)
            for (int64_t head = 0; head < heads; head++) {
                int64_t b = head / s.heads, h = head % s.heads;
                Sums sums(own, s);
                forward_sums<type>(f, b, h, 0, sums, copy);
                forward_scale(f, b, h, sums);
                forward_apply<type>(f, b, h, 0, s.queries, sums.context, copy);
            }
        } else {
#pragma omp for schedule(static)
            for (int64_t task = 0; task < heads * pieces; task++) {
                int64_t head = task / pieces;
                forward_sums<type>(f, head / s.heads, head % s.heads, task % pieces, Sums(workspace + task * floats, s), copy);
            }
#pragma omp for schedule(static)
            for (int64_t head = 0; head < heads; head++) {
                float* first = workspace + head * pieces * floats;
                for (int64_t piece = 1; piece < pieces; piece++)
                    for (int64_t i = 0; i < floats; i++) first[i] += first[piece * floats + i];
                forward_scale(f, head / s.heads, head % s.heads, Sums(first, s));
            }
#pragma omp for schedule(static)
            for (int64_t task = 0; task < heads * pieces; task++) {
                int64_t head = task / pieces, start = task % pieces * PIECE;
                Sums sums(workspace + head * pieces * floats, s);
                forward_apply<type>(f, head / s.heads, head % s.heads, start, least(start + PIECE, s.queries), sums.context, copy);
            }
        }
    }
}

template <int type> static void backward(const Backward& f) {
    const Shape& s = f.shape;
    int64_t heads = s.batch * s.heads, pieces = pieces_of(s), area = s.width * padded(s.value_width), floats = Matrices::floats(s);
    float *scratch = (float*)f.workspace, *workspace = scratch + s.threads * backward_scratch(s);
    float* matrices = workspace + heads * pieces * area;
#pragma omp parallel num_threads((int)s.threads) if (s.threads > 1)
    {
        float *copy = scratch + omp_get_thread_num() * backward_scratch(s);
        float *sum = copy + lines(copies_of(s)), *own = sum + lines(area);
        if (pieces == 1) {
#pragma omp for schedule(static)
            for (int64_t head = 0; head < heads; head++) {
                int64_t b = head / s.heads, h = head % s.heads;
                memset(sum, 0, 4 * area);
                gather_piece<type>(f.query, f.grad, s, b, h, 0, s.queries, mask_of(s, b, s.keep_queries), sum, 0, copy);
                backward_scale(f, b, h, sum, Matrices(own, s));
                backward_apply<type>(f, b, h, 0, PIECE, Matrices(own, s), copy);
            }
        } else {
#pragma omp for schedule(static)
            for (int64_t task = 0; task < heads * pieces; task++) {
                int64_t head = task / pieces, b = head / s.heads, h = head % s.heads, start = task % pieces * PIECE;
                float* target = workspace + task * area;
                memset(target, 0, 4 * area);
                gather_piece<type>(f.query, f.grad, s, b, h, start, least(start + PIECE, s.queries),
                                   mask_of(s, b, s.keep_queries), target, 0, copy);
            }
#pragma omp for schedule(static)
            for (int64_t head = 0; head < heads; head++) {
                float* first = workspace + head * pieces * area;
                for (int64_t piece = 1; piece < pieces; piece++)
                    for (int64_t i = 0; i < area; i++) first[i] += first[piece * area + i];
                backward_scale(f, head / s.heads, head % s.heads, first, Matrices(matrices + head * floats, s));
            }
#pragma omp for schedule(static)
            for (int64_t task = 0; task < heads * pieces; task++) {
                int64_t head = task / pieces, start = task % pieces * PIECE;
                backward_apply<type>(f, head / s.heads, head % s.heads, start, start + PIECE, Matrices(matrices + head * floats, s),
                                     copy);
            }
        }
    }
}

extern "C" {

// Floats of workspace that `sima_forward` and `sima_backward` want for this shape.
int64_t sima_forward_workspace(const Shape* s) { return forward_floats(*s); }

int64_t sima_backward_workspace(const Shape* s) { return backward_floats(*s); }

// `type` as in the enum; the integers of `Forward` and `Backward` in order.
void sima_forward(int64_t type, const Forward* f) {
    if (type == FLOAT32) forward<FLOAT32>(*f);
    if (type == BFLOAT16) forward<BFLOAT16>(*f);
#ifdef __FLT16_MAX__
    if (type == FLOAT16) forward<FLOAT16>(*f);
#endif
}

void sima_backward(int64_t type, const Backward* f) {
    if (type == FLOAT32) backward<FLOAT32>(*f);
    if (type == BFLOAT16) backward<BFLOAT16>(*f);
#ifdef __FLT16_MAX__
    if (type == FLOAT16) backward<FLOAT16>(*f);
#endif
}

int64_t sima_float16() {
#ifdef __FLT16_MAX__
    return 1;
#else
    return 0;
#endif
}
}
