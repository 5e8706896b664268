// SimA attention on CPU, forward and backward, for float32, bfloat16 and float16 inputs; everything is summed in float32.
//
// One head needs k^T v, the token sums a of |q| and b of |k|, and q M with M = diag(gain / (a b)) k^T v. Tokens are taken in pieces
// of PIECE whose sums are added in order, so that results do not depend on the number of threads. Backward, with g the gradient of
// the output and C = k^T v (formulas: ops/fused.py):
//
//     dM = q^T g    dC = diag(s) dM    dq = g M^T - sign(q) cq    dk = v dC^T - sign(k) ck    dv = k dC
//
// No header of torch and none of the standard library's templates, so that a compiler needs a few seconds. ops/cpu.py calls
// `sima_forward` and `sima_backward` with one array of integers each, laid out as in the structs `Forward` and `Backward`.

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__AVX512F__)
#define LANES 16  // floats in a vector register
#define VECTORS 4  // vectors side by side in a block of results: with ROWS, what fits the registers
#elif defined(__AVX__)
#define LANES 8
#define VECTORS 2
#elif defined(__ARM_NEON)
#define LANES 4
#define VECTORS 4
#else
#define LANES 4
#define VECTORS 2
#endif
#define ROWS 6
#define TILE 64  // tokens copied together: two tiles of 64 channels fit the first cache
#define PIECE 512

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef float unaligned_vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));

static inline vec load(const float* x) { return *(const unaligned_vec*)x; }
static inline void store(float* x, vec v) { *(unaligned_vec*)x = v; }
static inline vec splat(float x) { return x - (vec){}; }
static inline vec absolute(vec x) { return (vec)((ivec)x & 0x7fffffff); }
static inline int64_t padded(int64_t width) { return (width + LANES - 1) / LANES * LANES; }
static inline int64_t least(int64_t x, int64_t y) { return x < y ? x : y; }

// ---------------------------------------------------------------------------------------------------- tensors

enum Type { FLOAT32, BFLOAT16, FLOAT16 };

// (batch, heads, tokens, width) with strides in elements; channels lie side by side.
struct Tensor {
    int64_t data, batch_stride, head_stride, token_stride;
};

template <int type> struct Element;
template <> struct Element<FLOAT32> {
    typedef float Stored;
    static inline float read(float x) { return x; }
    static inline float write(float x) { return x; }
};
template <> struct Element<BFLOAT16> {
    typedef uint16_t Stored;
    static inline float read(uint16_t x) {
        uint32_t bits = (uint32_t)x << 16;
        float value;
        memcpy(&value, &bits, 4);
        return value;
    }
    static inline uint16_t write(float x) {  // to the nearest, ties to even
        uint32_t bits;
        memcpy(&bits, &x, 4);
        uint16_t rounded = (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
        return (bits & 0x7fffffff) > 0x7f800000 ? (uint16_t)0x7fc0 : rounded;
    }
};
#ifdef __FLT16_MAX__
template <> struct Element<FLOAT16> {
    typedef _Float16 Stored;
    static inline float read(_Float16 x) { return (float)x; }
    static inline _Float16 write(float x) { return (_Float16)x; }
};
#endif

template <int type> static inline typename Element<type>::Stored* row(const Tensor& x, int64_t b, int64_t h, int64_t n) {
    typedef typename Element<type>::Stored Stored;
    return (Stored*)x.data + b * x.batch_stride + h * x.head_stride + n * x.token_stride;
}

// Copy tokens into a tile of float32 rows `stride` apart, the rest of each row zero; tokens that `keep` hides are zero.
template <int type>
static void read_tile(const Tensor& x, int64_t b, int64_t h, int64_t n, int64_t count, int64_t width, const uint8_t* keep,
                      float* tile, int64_t stride) {
    for (int64_t i = 0; i < count; i++, tile += stride) {
        if (keep && !keep[n + i]) {
            memset(tile, 0, 4 * stride);
            continue;
        }
        const typename Element<type>::Stored* source = row<type>(x, b, h, n + i);
        for (int64_t c = 0; c < width; c++) tile[c] = Element<type>::read(source[c]);
        for (int64_t c = width; c < stride; c++) tile[c] = 0;
    }
}

template <int type>
static void write_tile(const Tensor& x, int64_t b, int64_t h, int64_t n, int64_t count, int64_t width, const float* tile,
                       int64_t stride) {
    for (int64_t i = 0; i < count; i++, tile += stride) {
        typename Element<type>::Stored* target = row<type>(x, b, h, n + i);
        for (int64_t c = 0; c < width; c++) target[c] = Element<type>::write(tile[c]);
    }
}

// sums[c] += |tile[i, c]| over the rows; width whole vectors.
static void add_absolute(const float* tile, int64_t stride, int64_t count, int64_t width, float* sums) {
    for (int64_t c = 0; c < width; c += LANES) {
        vec sum = load(sums + c);
        for (int64_t i = 0; i < count; i++) sum += absolute(load(tile + i * stride + c));
        store(sums + c, sum);
    }
}

// ---------------------------------------------------------------------------------------------------- products

// out[R rows, V vectors] = x m, minus sign(y) * coefficients where SIGNED.
template <int R, int V, bool SIGNED>
static inline void multiply_block(const float* x, int64_t ldx, int64_t depth, const float* m, int64_t ldm, float* out,
                                  int64_t ldo, const float* y, int64_t ldy, const float* coefficients) {
    vec sums[R][V];
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++) sums[r][v] = (vec){};
    for (int64_t d = 0; d < depth; d++, m += ldm) {
        vec right[V];
        for (int v = 0; v < V; v++) right[v] = load(m + v * LANES);
        for (int r = 0; r < R; r++) {
            vec left = splat(x[r * ldx + d]);
            for (int v = 0; v < V; v++) sums[r][v] += left * right[v];
        }
    }
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++) {
            vec sum = sums[r][v];
            if (SIGNED) {
                vec signs = load(y + r * ldy + v * LANES), c = load(coefficients + v * LANES), zero = (vec){};
                sum -= (vec)((ivec)c & (ivec)(signs > zero)) - (vec)((ivec)c & (ivec)(signs < zero));
            }
            store(out + r * ldo + v * LANES, sum);
        }
}

// c[R channels, V vectors] += x^T y over `count` tokens.
template <int R, int V>
static inline void gather_block(const float* x, int64_t ldx, const float* y, int64_t ldy, int64_t count, float* c, int64_t ldc) {
    vec sums[R][V];
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++) sums[r][v] = load(c + r * ldc + v * LANES);
    for (int64_t n = 0; n < count; n++, x += ldx, y += ldy) {
        vec right[V];
        for (int v = 0; v < V; v++) right[v] = load(y + v * LANES);
        for (int r = 0; r < R; r++) {
            vec left = splat(x[r]);
            for (int v = 0; v < V; v++) sums[r][v] += left * right[v];
        }
    }
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++) store(c + r * ldc + v * LANES, sums[r][v]);
}

// Calls `function<rows, vectors>` with the number of rows and vectors left over.
#define DISPATCH_VECTORS(R, vectors, CALL) \
    switch (vectors) {                     \
        case 1: CALL(R, 1); break;         \
        case 2: CALL(R, 2); break;         \
        case 3: CALL(R, (VECTORS < 3 ? 1 : 3)); break; \
        case 4: CALL(R, (VECTORS < 4 ? 1 : 4)); break; \
    }
#define DISPATCH(rows, vectors, CALL)                              \
    switch (rows) {                                                \
        case 1: DISPATCH_VECTORS(1, vectors, CALL) break;          \
        case 2: DISPATCH_VECTORS(2, vectors, CALL) break;          \
        case 3: DISPATCH_VECTORS(3, vectors, CALL) break;          \
        case 4: DISPATCH_VECTORS(4, vectors, CALL) break;          \
        case 5: DISPATCH_VECTORS(5, vectors, CALL) break;          \
        case 6: DISPATCH_VECTORS(6, vectors, CALL) break;          \
    }

// out (count, width) = x (count, depth) m (depth, width), width whole vectors.
template <bool SIGNED>
static void multiply(const float* x, int64_t ldx, int64_t count, int64_t depth, const float* m, int64_t width, float* out,
                     int64_t ldo, const float* y, int64_t ldy, const float* coefficients) {
    for (int64_t n = 0; n < count; n += ROWS) {
        int64_t rows = least(ROWS, count - n);
        for (int64_t c = 0; c < width; c += VECTORS * LANES) {
            int64_t vectors = least(VECTORS, (width - c) / LANES);
#define CALL(R, V)                                                                                                     \
    multiply_block<R, V, SIGNED>(x + n * ldx, ldx, depth, m + c, width, out + n * ldo + c, ldo, y + n * ldy + c, ldy, \
                                 coefficients + c)
            DISPATCH(rows, vectors, CALL)
#undef CALL
        }
    }
}

// c (depth, width) += x (count, depth)^T y (count, width), width whole vectors.
static void gather(const float* x, int64_t ldx, int64_t depth, const float* y, int64_t width, int64_t count, float* c) {
    for (int64_t d = 0; d < depth; d += ROWS) {
        int64_t rows = least(ROWS, depth - d);
        for (int64_t e = 0; e < width; e += VECTORS * LANES) {
            int64_t vectors = least(VECTORS, (width - e) / LANES);
#define CALL(R, V) gather_block<R, V>(x + d, ldx, y + e, width, count, c + d * width + e, width)
            DISPATCH(rows, vectors, CALL)
#undef CALL
        }
    }
}

// ---------------------------------------------------------------------------------------------------- attention

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
    int64_t pieces;  // workspace: for each head and piece, see `Sums`
};

struct Backward {
    Shape shape;
    Tensor grad, query, key, value, dquery, dkey, dvalue;
    int64_t query_norm, key_norm, context, gain;
    int64_t pieces;
};

static inline const uint8_t* mask_of(const Shape& s, int64_t b, bool wanted) {
    return s.keep && wanted ? (const uint8_t*)s.keep + b * s.keys : 0;
}

// Scratch memory of one thread, handed out piece by piece.
struct Scratch {
    float *start, *next;
    explicit Scratch(int64_t floats) {
        if (posix_memalign((void**)&start, 64, 4 * floats)) abort();
        next = start;
    }
    ~Scratch() { free(start); }
    float* take(int64_t floats) {
        float* taken = next;
        next += (floats + 15) / 16 * 16;
        return taken;
    }
};

// A look at some tokens as float32 rows: where they lie if they can be used as they are, else copied into `copy`.
struct Rows {
    const float* data;
    int64_t stride;
};

template <int type>
static Rows rows_of(const Tensor& x, int64_t b, int64_t h, int64_t n, int64_t count, int64_t width, const uint8_t* keep, float* copy,
                    bool always_copy = false) {
    if (type == FLOAT32 && !keep && width % LANES == 0 && !always_copy)
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
        return 2 * padded(s.width) + 2 * s.value_width * padded(s.width) + s.width * padded(s.value_width) + 64;
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
    memset(m.query_signs, 0, 4 * (Matrices::floats(s) - 64));
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

// One head at a time where it fits the cache; else all pieces, then all heads, then all pieces again, each in parallel. The same
// sums in the same order either way.
template <int type> static void forward(const Forward& f) {
    const Shape& s = f.shape;
    int64_t heads = s.batch * s.heads, pieces = pieces_of(s), floats = Sums::floats(s);
    float* workspace = (float*)f.pieces;
#pragma omp parallel num_threads((int)s.threads) if (s.threads > 1)
    {
        Scratch scratch(copies_of(s) + floats + 64);
        float *copy = scratch.take(copies_of(s)), *own = scratch.take(floats);
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
    float *workspace = (float*)f.pieces, *matrices = workspace + heads * pieces * area;
#pragma omp parallel num_threads((int)s.threads) if (s.threads > 1)
    {
        Scratch scratch(copies_of(s) + area + floats + 64);
        float *copy = scratch.take(copies_of(s)), *sum = scratch.take(area), *own = scratch.take(floats);
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
int64_t sima_forward_workspace(const Shape* s) {
    int64_t pieces = pieces_of(*s);
    return pieces == 1 ? 0 : s->batch * s->heads * pieces * Sums::floats(*s);
}

int64_t sima_backward_workspace(const Shape* s) {
    int64_t pieces = pieces_of(*s);
    return pieces == 1 ? 0 : s->batch * s->heads * (pieces * s->width * padded(s->value_width) + Matrices::floats(*s));
}

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
