/* What the kernel's selftests need of their harness, on one page: every case is a child, its line says ok or not. */
#pragma once
#define _GNU_SOURCE 1
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

struct __test_metadata { const char *name; int failed; };
struct harness_variant { const char *name; const void *data; struct harness_variant *next; };
struct harness_fixture { const char *name; struct harness_variant *variants; };
struct harness_case {
	const char *name;
	struct harness_fixture *fixture;
	void (*run)(struct __test_metadata *, const void *variant);
	struct harness_case *next;
};
static struct harness_case *harness_cases, **harness_last = &harness_cases;

#define FIXTURE_DATA(f) struct f##_data
#define FIXTURE_VARIANT(f) struct f##_variant
#define FIXTURE(f)                                                              \
	FIXTURE_VARIANT(f);                                                     \
	static struct harness_fixture f##_fixture = { #f };                     \
	FIXTURE_DATA(f)
#define HARNESS_FN(name, f)                                                     \
	static void name(struct __test_metadata *_metadata, FIXTURE_DATA(f) *self, \
			 const FIXTURE_VARIANT(f) *variant)
#define FIXTURE_SETUP(f) HARNESS_FN(f##_setup, f)
#define FIXTURE_TEARDOWN(f) HARNESS_FN(f##_teardown, f)
#define FIXTURE_VARIANT_ADD(f, v)                                               \
	extern const FIXTURE_VARIANT(f) f##_##v##_data;                         \
	static struct harness_variant f##_##v##_variant = { #v, &f##_##v##_data }; \
	static void __attribute__((constructor)) f##_##v##_add(void)            \
	{                                                                       \
		struct harness_variant **p = &f##_fixture.variants;             \
		while (*p)                                                      \
			p = &(*p)->next;                                        \
		*p = &f##_##v##_variant;                                        \
	}                                                                       \
	const FIXTURE_VARIANT(f) f##_##v##_data =
#define TEST_F(f, t)                                                            \
	HARNESS_FN(f##_##t, f);                                                 \
	static void f##_##t##_run(struct __test_metadata *_metadata, const void *v) \
	{                                                                       \
		static char room[4096] __attribute__((aligned(16)));            \
		FIXTURE_DATA(f) *self = (void *)room;                           \
		f##_setup(_metadata, self, v);                                  \
		f##_##t(_metadata, self, v);                                    \
		f##_teardown(_metadata, self, v);                               \
	}                                                                       \
	static struct harness_case f##_##t##_case = { #t, &f##_fixture, f##_##t##_run }; \
	static void __attribute__((constructor)) f##_##t##_add(void)            \
	{                                                                       \
		*harness_last = &f##_##t##_case;                                \
		harness_last = &f##_##t##_case.next;                            \
	}                                                                       \
	HARNESS_FN(f##_##t, f)

#define SKIP(statement, fmt, ...) do { printf("# " fmt "\n", ##__VA_ARGS__); statement; } while (0)
#define TH_LOG(fmt, ...) printf("# " fmt "\n", ##__VA_ARGS__)
#define HARNESS_CHECK(a, op, b, stop) do {                                      \
	__typeof__(a) _a = (a);                                                 \
	__typeof__(b) _b = (b);                                                 \
	if (!(_a op _b)) {                                                      \
		printf("# line %d: %s (%#llx) " #op " %s (%#llx), errno %d\n", __LINE__, #a, \
		       (unsigned long long)(uintptr_t)_a, #b, (unsigned long long)(uintptr_t)_b, errno); \
		_metadata->failed = 1;                                          \
		if (stop) {                                                     \
			fflush(stdout);                                         \
			_exit(1);                                               \
		}                                                               \
	}                                                                       \
} while (0)
#define ASSERT_EQ(a, b) HARNESS_CHECK(a, ==, b, 1)
#define ASSERT_NE(a, b) HARNESS_CHECK(a, !=, b, 1)
#define ASSERT_GE(a, b) HARNESS_CHECK(a, >=, b, 1)
#define ASSERT_LT(a, b) HARNESS_CHECK(a, <, b, 1)
#define EXPECT_EQ(a, b) HARNESS_CHECK(a, ==, b, 0)
#define EXPECT_NE(a, b) HARNESS_CHECK(a, !=, b, 0)

static void harness_run(struct harness_case *c, struct harness_variant *v, const char *wanted)
{
	char name[256];
	int status;

	snprintf(name, sizeof(name), "%s.%s.%s", c->fixture->name, v ? v->name : "-", c->name);
	if (strncmp(name, wanted, strlen(wanted)))
		return;
	fflush(stdout);
	if (!fork()) {
		struct __test_metadata metadata = { c->name, 0 };
		alarm(60);
		c->run(&metadata, v ? v->data : NULL);
		fflush(stdout);
		_exit(metadata.failed);
	}
	wait(&status);
	printf("%s %s\n", status ? "not ok" : "ok", name);
}

#define TEST_HARNESS_MAIN                                                       \
	int main(int argc, char **argv)                                         \
	{                                                                       \
		struct harness_case *c;                                         \
		struct harness_variant *v;                                      \
		for (c = harness_cases; c; c = c->next) {                       \
			if (!c->fixture->variants)                              \
				harness_run(c, NULL, argv[1]);                  \
			for (v = c->fixture->variants; v; v = v->next)          \
				harness_run(c, v, argv[1]);                     \
		}                                                               \
		return 0;                                                       \
	}
