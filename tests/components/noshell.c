/* The only program of the test image tesp-test/noshell:1, which has no shell,
 * no libc and no other tool. Linked statically; see .ci/provision.
 *
 *   write PATH TEXT   make PATH's parents (0700) and the file (0600) with TEXT
 *   mkdirs PATH       make PATH and its parents (0700)
 *   cat PATH          copy the file to standard output
 *   cat-stdin         copy standard input to standard output
 *   sleep SECONDS     sleep, then exit 0
 *   exit CODE         exit with CODE
 *   eat MB            allocate and touch MB megabytes, print "ok"
 *
 * Anything else, and every failure, is a message on standard error and exit 125.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FAILED 125

static int failed(const char *what) {
    fprintf(stderr, "noshell: %s: %s\n", what, strerror(errno));
    return FAILED;
}

static int write_all(int fd, const char *data, size_t length) {
    while (length > 0) {
        ssize_t written = write(fd, data, length);
        if (written < 0) {
            if (errno == EINTR) continue;
            return -1;
        }
        data += written;
        length -= (size_t)written;
    }
    return 0;
}

static int copy_to_stdout(int fd) {
    static char buffer[65536];
    for (;;) {
        ssize_t got = read(fd, buffer, sizeof buffer);
        if (got == 0) return 0;
        if (got < 0) {
            if (errno == EINTR) continue;
            return -1;
        }
        if (write_all(STDOUT_FILENO, buffer, (size_t)got) != 0) return -1;
    }
}

static int make_directory(const char *path) {
    return mkdir(path, 0700) == 0 || errno == EEXIST ? 0 : -1;
}

/* Makes the parents of path; the last part too when whole is set. */
static int make_directories(const char *path, int whole) {
    char *copy = strdup(path);
    int result = copy == NULL ? -1 : 0;
    for (char *slash = copy; result == 0 && (slash = strchr(slash + 1, '/')) != NULL;) {
        *slash = '\0';
        result = make_directory(copy);
        *slash = '/';
    }
    if (result == 0 && whole) result = make_directory(copy);
    free(copy);
    return result;
}

static int write_file(const char *path, const char *text) {
    if (make_directories(path, 0) != 0) return failed(path);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || write_all(fd, text, strlen(text)) != 0 || close(fd) != 0) return failed(path);
    return 0;
}

static int cat(const char *path) {
    int fd = open(path, O_RDONLY);
    if (fd < 0 || copy_to_stdout(fd) != 0) return failed(path);
    return 0;
}

static int eat(const char *megabytes) {
    size_t length = strtoul(megabytes, NULL, 10) << 20;
    volatile char *memory = malloc(length + 1);
    if (memory == NULL) return failed("eat");
    for (size_t i = 0; i <= length; i += 4096) memory[i] = 1;
    puts("ok");
    return 0;
}

int main(int argc, char **argv) {
    const char *command = argc > 1 ? argv[1] : "";
    umask(0);
    if (argc == 4 && strcmp(command, "write") == 0) return write_file(argv[2], argv[3]);
    if (argc == 2 && strcmp(command, "cat-stdin") == 0)
        return copy_to_stdout(STDIN_FILENO) == 0 ? 0 : failed("cat-stdin");
    if (argc == 3) {
        if (strcmp(command, "mkdirs") == 0)
            return make_directories(argv[2], 1) == 0 ? 0 : failed(argv[2]);
        if (strcmp(command, "cat") == 0) return cat(argv[2]);
        if (strcmp(command, "sleep") == 0) {
            for (unsigned left = (unsigned)atoi(argv[2]); left > 0;) left = sleep(left);
            return 0;
        }
        if (strcmp(command, "exit") == 0) return atoi(argv[2]);
        if (strcmp(command, "eat") == 0) return eat(argv[2]);
    }
    fputs("usage: noshell write PATH TEXT | mkdirs PATH | cat PATH | cat-stdin |"
          " sleep SECONDS | exit CODE | eat MB\n", stderr);
    return FAILED;
}
