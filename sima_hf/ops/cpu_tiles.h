// What the CPU kernels are made of: vectors as wide as the processor's, tiles of tokens in float32, and two products of tiles.
//
// No header of torch and none of the standard library's templates, so that a compiler needs a few seconds.

#include <stdint.h>
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
