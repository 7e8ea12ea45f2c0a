#include "kernels/cublaslt_cuda.cuh"

#include <dlfcn.h>
#include <pthread.h>

/* Of the version that this was compiled with; the program's run path has the toolkit's folder. */
#define TEXT_OF(number) #number
#define TEXT(number) TEXT_OF(number)
#define LIBRARY "libcublasLt.so." TEXT(CUBLAS_VER_MAJOR)

struct spin_cublaslt spin_cublaslt;

static pthread_once_t once = PTHREAD_ONCE_INIT;
static spin_status found;
static struct spin_error why;

template <typename Function> static void find(void *library, const char *name, Function *out)
{
    *out = (Function)dlsym(library, name);
    if (*out == NULL && found == SPIN_OK) {
        found = spin_fail(&why, SPIN_ERR_UNSUPPORTED, LIBRARY " has no %s", name);
    }
}

static void find_all(void)
{
    void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        found = spin_fail(&why, SPIN_ERR_UNSUPPORTED, "cuBLASLt: %s", dlerror());
        return;
    }
#define FIND(name) find(library, "cublasLt" #name, &spin_cublaslt.name);
    SPIN_CUBLASLT_MAP(FIND)
#undef FIND
}

spin_status spin_cublaslt_find(struct spin_error *err)
{
    (void)pthread_once(&once, find_all);
    return found == SPIN_OK ? SPIN_OK : spin_fail(err, found, "%s", why.text);
}
