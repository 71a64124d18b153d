/* Structs that no honest plugin has: GARBAGE says which. */
#include <clawai.h>

#ifndef GARBAGE
#define GARBAGE 0
#endif
#define IS(number) (GARBAGE == (number))
#define SIZE(number, type) (IS(number) ? 7u : (uint32_t)sizeof(type))
#define WILD ((const void *)0x123456789000)

static claw_status run(claw_task *task, void *state) {
    (void)task, (void)state;
    return CLAW_OK;
}

static const claw_param params[] = {
    {SIZE(1, claw_param), CLAW_VERSION, IS(2) ? 77 : CLAW_TYPE_I64, IS(3) ? 0xffffffff : 1,
     IS(4) ? WILD : IS(5) ? "from" : IS(6) ? "two words" : "x", IS(7) ? WILD : NULL, 0, 0,
     NULL, 0, 0},
    {(uint32_t)sizeof(claw_param), CLAW_VERSION, IS(8) ? CLAW_TYPE_STR : CLAW_TYPE_I64, 1,
     IS(9) ? "x" : "y", "", 0, 0, IS(8) ? NULL : WILD, 0, 0},
};

static const claw_operation operation = {
    SIZE(10, claw_operation), CLAW_VERSION, IS(11) ? NULL : "garbage.run", IS(12) ? WILD : NULL,
    IS(13) ? WILD : params, IS(14) ? 4000000000u : IS(15) ? 200 : 2, 0,
    IS(16) ? (claw_status(*)(claw_task *, void *))(uintptr_t)WILD : IS(17) ? NULL : run, NULL,
    NULL};

static uint32_t count(const claw_factory *self) {
    (void)self;
    return IS(18) ? 0 : IS(19) ? 4000000000u : 1;
}

static const claw_operation *describe(const claw_factory *self, uint32_t index) {
    (void)self, (void)index;
    return IS(20) ? NULL : IS(21) ? WILD : &operation;
}

static claw_status create(const claw_factory *self, const char *name, claw_task *task,
                          void **state) {
    (void)self, (void)name, (void)task, (void)state;
    return IS(22) ? 1234 : CLAW_OK;
}

static void destroy(const claw_factory *self, const char *name, void *state) {
    (void)self, (void)name, (void)state;
}

static const claw_factory made = {SIZE(23, claw_factory), CLAW_VERSION, IS(24) ? NULL : count,
                                  describe, create,
                                  IS(25) ? (void (*)(const claw_factory *, const char *,
                                                     void *))(uintptr_t)WILD
                                         : destroy};

static const void *factory(const char *id) {
    (void)id;
    return IS(26) ? NULL : IS(27) ? WILD : &made;
}

CLAW_EXPORT extern const claw_entry_point claw_entry;
const claw_entry_point claw_entry = {IS(28) ? 0xffffffffu : SIZE(29, claw_entry_point),
                                     CLAW_VERSION, IS(30) ? NULL : factory};
