// How often each word, or each run of words, occurs in a text; every so many words a chunk.
#include <clawai.hpp>
#include <algorithm>
#include <deque>

using Counts = std::map<std::string, std::int64_t>;

static bool separates(char letter) {
    return letter == ' ' || letter == '\n' || letter == '\t' || letter == '\r';
}

static Counts count(claw::Task &task, std::string_view text, unsigned size, unsigned every) {
    Counts counts;
    std::deque<std::string> last;
    std::size_t words = 0;
    for (auto at = text.begin(); at != text.end();) {
        auto begin = std::find_if_not(at, text.end(), separates);
        at = std::find_if(begin, text.end(), separates);
        if (begin == at)
            break;
        last.emplace_back(begin, at);
        if (last.size() > size)
            last.pop_front();
        if (last.size() == size) {
            std::string gram = last.front();
            for (std::size_t place = 1; place < size; place++)
                gram += " " + last[place];
            counts[gram]++;
        }
        if (++words % every == 0)
            task.chunk(Counts{{"words", words}, {"different", counts.size()}});
    }
    return counts;
}

CLAW_OPERATIONS {
    return {claw::operation("ngrams.count", "Count runs of words", count,
                            {{"text", "where to count"},
                             {"size", "words in a run", 1, 1, 16},
                             {"every", "words from chunk to chunk", 1000, 1, 1e9}})};
}
